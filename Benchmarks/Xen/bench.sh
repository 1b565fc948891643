# Sourced in dom0 of the rig: dom0 is the client, domu1 the server; by turns, the better of three.

port=40000

# once KIND MESSAGE COUNT TRIPS PREFIX...: prints what the client prints.
once() {
    local program
    case $1 in swift) program=xen-bench ;; c) program=xen-library ;; esac
    local message=$2 count=$3 trips=$4
    shift 4
    port=$((port + 1))
    ask domu1 "/payload/$program server 0 $port $message $count $trips"
    timeout -s KILL 300 "$@" "/payload/$program" client "$one" "$port" "$message" "$count" "$trips"
    answer domu1 "$number" || echo "bench: the server failed" >&2
}

# figure NAME KIND VALUE
figure() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >> /out/figures; }

# The best of three of column $1 for both, by turns.
measure() {
    local name=$1 column=$2 better=$3 message=$4 count=$5 trips=$6 round kind value
    : > /tmp/values
    for round in 1 2 3; do
        for kind in swift c; do
            once $kind "$message" "$count" "$trips" > /tmp/line
            echo "$kind $(awk -v c="$column" '{ print $c }' /tmp/line)" >> /tmp/values
        done
    done
    for kind in swift c; do
        value=$(awk -v k=$kind '$1 == k { print $2 }' /tmp/values | sort -n |
            if [ "$better" = more ]; then tail -n 1; else head -n 1; fi)
        figure "$name" $kind "$value"
    done
}

# Calls of the client by strace, in a run of its own: an event is sent by ioctl (one hypercall), taken
# by read and unmasked by write.
count_calls() {
    local name=$1 message=$2 count=$3 trips=$4 kind call
    for kind in swift c; do
        once $kind "$message" "$count" "$trips" /payload/strace -f -c -o /tmp/calls > /dev/null
        for call in ioctl read write; do
            figure "$name: $call" $kind \
                "$(awk -v c=$call '$NF == c { n = $4 } END { print n + 0 }' /tmp/calls)"
        done
        figure "$name: all system calls" $kind "$(awk '$NF == "total" { print $4 }' /tmp/calls)"
    done
}

group_bench() {
    one=$(domain_id domu1)
    measure 'stream out, 64 KiB messages, MB/s' 1 more 65536 400 0
    measure 'stream in, 64 KiB messages, MB/s' 2 more 65536 400 0
    measure 'stream out, 4 KiB messages, MB/s' 1 more 4096 4000 0
    measure 'stream out, 512 byte messages, MB/s' 1 more 512 20000 0
    measure 'round trip of 64 bytes, us' 3 less 64 1 1000
    count_calls '1000 round trips' 64 1 1000
    count_calls '6.4 MB each way, 4 KiB messages' 4096 1600 0
    result bench 'all figures were measured' ok
}
