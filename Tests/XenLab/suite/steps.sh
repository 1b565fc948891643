# Sourced by dom0.sh: commands in other domains, and results by case.
. /lib/xenlab/common.sh
PATH=$PATH:$(echo /usr/lib/xen-*/bin)

results=/out/results
failures=0
number=0

domain_id() { awk -v n="$1" '$1 == n { print $2 }' /run/xenlab/peers; }

# ask NAME COMMAND: starts a command line in a domU; $number is what to wait for.
ask() {
    number=$((number + 1))
    # The store's tools keep a value on one line.
    xenstore-write "/local/domain/$(domain_id "$1")/xenlab/run" \
        "$number $(printf '%s' "$2" | sed 's/\\$//' | tr '\n' ' ')"
}

# answer NAME NUMBER: waits for a command's end; its status.
answer() {
    local node
    node=/local/domain/$(domain_id "$1")/data/xenlab/ended wanted=$2
    has_ended() {
        ended=$(xenstore-read "$node" 2>/dev/null) && [ "${ended%% *}" = "$wanted" ]
    }
    wait_node "$node" has_ended
    return "${ended#* }"
}

# within SECONDS COMMAND...: its status, or 124 when it takes longer.
within() {
    local limit=$1
    shift
    timeout -s KILL "$limit" "$@"
}

# result GROUP CASE ok|failed [WHY]
result() {
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4-}" >> "$results"
    [ "$3" = ok ] || failures=$((failures + 1))
    [ "$3" = ok ] || echo "FAILED  $1: $2 ${4-}"
}
