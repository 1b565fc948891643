# Sourced by dom0.sh: commands in other domains, and results by case.
. /lib/xenlab/common.sh
PATH=/payload:$PATH:$(echo /usr/lib/xen-*/bin)

results=/out/results
failures=0
number=0

domain_id() { if [ "$1" = dom0 ]; then echo 0; else xl domid "$1"; fi; }

uptime_s() { cut -d. -f1 /proc/uptime; }

# --- Domains that run domu.sh ---

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

# domain_of NAME LINE...: the configuration of one more domain, like the rig's own, with these lines.
domain_of() {
    sed "s/xenlab.name=domu1/xenlab.name=$1 xenlab.alone=1/; s/^name = .*/name = \"$1\"/" \
        /etc/xen/domu1.cfg
    shift
    for line in "$@"; do echo "$line"; done
}

# --- Qubes, once qrexec runs ---

# in_qube NAME USER COMMAND: runs a shell command in a qube.
in_qube() {
    timeout -s KILL "${patience:-120}" qrexec-client -w 60 -d "$1" "$2:$3" < /dev/null
}

# --- Results ---

# within SECONDS COMMAND...: its status, or 137 when it takes longer.
within() {
    local limit=$1
    shift
    timeout -s KILL "$limit" "$@"
}

# eventually SECONDS COMMAND...: until it succeeds.
eventually() {
    local deadline
    deadline=$(($(uptime_s) + $1))
    shift
    until "$@"; do
        [ "$(uptime_s)" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

# result GROUP CASE ok|failed [WHY]
result() {
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$(echo "${4-}" | tr '\t\n' '  ')" >> "$results"
    [ "$3" = ok ] || failures=$((failures + 1))
    [ "$3" = ok ] || echo "FAILED  $1: $2 ${4-}"
}

# check GROUP CASE COMMAND...: kept when it succeeds.
check() {
    local group=$1 name=$2 said
    shift 2
    if said=$("$@" 2>&1); then result "$group" "$name" ok; else
        result "$group" "$name" failed "status $?: $(echo "$said" | tail -n 4)"
    fi
}

# same GROUP CASE WANTED FOUND
same() {
    if [ "$3" = "$4" ]; then result "$1" "$2" ok; else
        result "$1" "$2" failed "'$4' in the place of '$3'"
    fi
}

# contains GROUP CASE PATTERN FOUND: kept when the shell pattern matches.
contains() {
    case $4 in
        $3) result "$1" "$2" ok ;;
        *) result "$1" "$2" failed "'$4' is not '$3'" ;;
    esac
}

# take GROUP: the results that a script prints on standard input.
take() {
    local word text
    while read -r word text; do
        case $word in
            kept) result "$1" "$text" ok ;;
            BROKEN) result "$1" "${text%%: *}" failed "${text#*: }" ;;
        esac
    done
}
