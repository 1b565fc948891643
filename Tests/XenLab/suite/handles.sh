# Confined daemons over Xen: calls through them, and what somebody gets who takes one over. The
# dispatcher in qrexec-policy-daemon has the devices and the store; a daemon has two handles a channel.

# The processes that are a daemon of the qube, or of any.
daemons() {
    local entry
    for entry in /proc/[0-9]*; do
        tr '\0' ' ' < "$entry/cmdline" 2>/dev/null | grep -q "^qrexec-daemon .* -- ${1-.*}" &&
            echo "${entry#/proc/}"
    done
}

# hostile WHO ATTEMPT: what the stand-in says that the starter starts in the place of a daemon.
hostile() {
    within 100 ./qrexec-daemon-starter --direct --program=/run/hostile-daemon \
        --socket-dir=/run/qubes -- "$(domain_id "$1")" "$1" "$2" 2>&1 | grep '^hostile: '
}

# expect NAME EXPECTED GOT
expect() {
    if [ "$2" = "$3" ]; then result handles "$1" ok; else result handles "$1" failed "$3"; fi
}

# offer PORT: a channel of domu1's to dom0, as any program there may offer it.
offer() {
    ask domu1 "cd /payload; sleep 1000 | ./vchan-cat --listen --domain 0 --port $1 & true"
    answer domu1 "$number"
}

restart_agent() {
    ask "$1" 'killall qrexec-agent; cd /payload; sh ./agent.sh'
    answer "$1" "$number" || result handles "the agent of $1 starts" failed
}

# call NAME: from domu1 to domu2, until it succeeds.
try_call() {
    local tries=0
    until
        ask domu1 '[ "$(echo hello | timeout -s KILL 100 /payload/qrexec-client-vm domu2 test.Echo+A)" = "domu1 A hello" ]'
        answer domu1 "$number"
    do
        tries=$((tries + 1))
        if [ $tries -ge 20 ]; then
            result handles "$1" failed
            return
        fi
        sleep 0.5
    done
    result handles "$1" ok
}

group_handles() {
    local pid said line
    # Those of an earlier group.
    [ -z "$policy" ] || wait "$manager" "$policy"
    restart_agent domu1
    restart_agent domu2
    start_dom0 || result handles 'daemons and agents are connected' failed
    try_call 'domU to domU by confined daemons'
    said=$(grep -c 'daemon/domu2.*connection ended' /out/manager.log)
    restart_agent domu2
    try_call 'the same when the agent has been restarted'
    expect 'which its daemon has seen' $((said + 1)) \
        "$(grep -c 'daemon/domu2.*connection ended' /out/manager.log)"
    ask domu2 '[ "$(timeout -s KILL 100 /payload/qrexec-client-vm dom0 test.Dom0 < /dev/null)" = "domu2 asked dom0" ]'
    if answer domu2 "$number"; then result handles 'domU to dom0 by a confined daemon' ok; else
        result handles 'domU to dom0 by a confined daemon' failed
    fi
    # The daemon of domu1: no right, no device but that of its control channel's events.
    pid=$(daemons "$one domu1")
    for line in 'NoNewPrivs:.1' 'Seccomp:.2' 'CapEff:.0000000000000000' 'Uid:.65534'; do
        grep -q "$line" "/proc/$pid/status"
        expect "a daemon's status has $line" 0 $?
    done
    expect 'a daemon holds one device' /dev/xen/evtchn \
        "$(ls -l "/proc/$pid/fd" | grep -o '/dev/xen.*\|/run/xen.*' | tr '\n' ' ' | sed 's/ $//')"

    # One in the hands of its qube; where an ordinary user may execute it.
    cp hostile-daemon /run/
    expect 'it opens nothing, starts nothing, signals nobody' 'hostile: done' "$(hostile domu1 system)"
    for said in channel,id=1,port=1 channel,id=1,port=511 channel,id=1,port=769 \
        "channel,id=1,port=600,domain=$two" call,id=1,target=domu2,service=test.Echo,source=domu2 \
        "register,domain=$two,name=domu2,socket-dir=/run/qubes" listen,socket-dir=/tmp; do
        expect "refused: $said" "hostile: closed hostile: done" \
            "$(hostile domu1 "$said" | tr '\n' ' ' | sed 's/ $//')"
    done
    if grep -q 'qube=domu1.*refused: port 511' /out/policy-daemon.log; then
        result handles 'a refusal is a line of the log' ok
    else
        result handles 'a refusal is a line of the log' failed
    fi
    offer 600
    expect 'its handles: its own event and pages, nothing else' \
        'hostile: tried its handles, confined hostile: done' \
        "$(hostile domu1 "handles,600,$two" | tr '\n' ' ' | sed 's/ $//')"
    offer 601
    expect 'the handle itself is restricted to its qube' \
        'hostile: tried its handles, free hostile: done' \
        "$(within 100 ./hostile-daemon "free-handles,601,$two,$one,domu1" 2>&1 |
            grep '^hostile: ' | tr '\n' ' ' | sed 's/ $//')"
    try_call 'calls go on beside it'
    unconfined_daemon
    ended_domain
    kill "$policy"
}

# The C library opens its devices itself: the way of the reference implementation, and told.
unconfined_daemon() {
    local daemon tries=0
    # Nobody would start them again.
    kill -KILL "$manager"
    wait "$manager"
    sleep 1
    expect 'daemons end with their manager' '' "$(daemons)"
    rm -f /run/qubes/qrexec.*
    QREXEC_VCHAN=libxenvchan ./qrexec-daemon-starter --direct --socket-dir=/run/qubes \
        -- "$one" domu1 > /out/unconfined.log 2>&1 & daemon=$!
    until [ -S /run/qubes/qrexec.domu1 ] || [ $tries -ge 120 ]; do
        tries=$((tries + 1))
        sleep 0.5
    done
    expect 'with libxenvchan a daemon works too' 'user' \
        "$(within 60 ./qrexec-client -d domu1 'user:id -un' < /dev/null)"
    expect 'and its log says once that it is not confined' 1 \
        "$(grep -c 'is not confined' /out/unconfined.log)"
    kill "$daemon"
    wait "$daemon"
}

# What was given for a domain is worth nothing when another one may have its number.
ended_domain() {
    local daemon tries=0
    ./qrexec-daemon-starter --direct --socket-dir=/run/qubes -- "$two" domu2 \
        > /out/ended.log 2>&1 & daemon=$!
    until [ -S /run/qubes/qrexec.domu2 ] || [ $tries -ge 120 ]; do
        tries=$((tries + 1))
        sleep 0.5
    done
    xl destroy domu2
    wait "$daemon"
    expect 'a daemon ends with its domain' 1 $?
    if grep -q 'qube=domu2.*its domain has ended' /out/policy-daemon.log; then
        result handles 'and nothing is done in its name any more' ok
    else
        result handles 'and nothing is done in its name any more' failed \
            "$(tail -n 2 /out/policy-daemon.log)"
    fi
}
