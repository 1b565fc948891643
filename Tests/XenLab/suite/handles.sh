# Confined daemons over Xen: calls through them, and what somebody gets who takes one over. The
# dispatcher in qrexec-policy-daemon has the devices and the store; a daemon has two handles a channel.
# The last group: no domain is left as it was.

# The processes that are a daemon of the qube, or of any.
daemons() {
    local entry
    for entry in /proc/[0-9]*; do
        tr '\0' ' ' < "$entry/cmdline" 2>/dev/null | grep -q "^qrexec-daemon .* -- ${1-.*}" &&
            echo "${entry#/proc/}"
    done
}

no_daemons() { [ -z "$(daemons)" ]; }

# hostile WHO ATTEMPT: what the stand-in says that the starter starts in the place of a daemon.
hostile() {
    within 100 qrexec-daemon-starter --direct --program=/run/hostile-daemon \
        --socket-dir=/run/qubes -- "$(domain_id "$1")" "$1" "$2" 2>&1 | grep '^hostile: '
}

# offer PORT: a channel of domu1's to dom0, as any program there may offer it.
offer() {
    in_qube domu1 root "setsid sh -c 'sleep 1000 | vchan-cat --listen --domain 0 --port $1' \\
        < /dev/null > /dev/null 2>&1 &"
}

calls_work() { [ "$(in_qube domu1 user 'echo hi | qrexec-client-vm domu2 test.Echo' 2>&1)" = 'domu1  hi' ]; }

group_handles() {
    local pid said line id other
    id=$(domain_id domu1) other=$(domain_id domu2)
    said=$(grep -c 'daemon/domu2.*connection ended' /out/manager.log)
    ask domu2 'killall qrexec-agent; sh /payload/qube.sh'
    answer domu2 "$number"
    check handles 'calls when an agent has been restarted' eventually 60 calls_work
    same handles 'which its daemon has seen' $((said + 1)) \
        "$(grep -c 'daemon/domu2.*connection ended' /out/manager.log)"

    # The daemon of domu1: no right, no device but that of its control channel's events.
    pid=$(daemons "$id domu1")
    for line in 'NoNewPrivs:.1' 'Seccomp:.2' 'CapEff:.0000000000000000' 'Uid:.1000'; do
        grep -q "$line" "/proc/$pid/status"
        same handles "a daemon's status has $line" 0 $?
    done
    same handles 'a daemon holds one device' /dev/xen/evtchn \
        "$(ls -l "/proc/$pid/fd" | grep -o '/dev/xen.*\|/run/xen.*' | tr '\n' ' ' | sed 's/ $//')"

    # One in the hands of its qube; where an ordinary user may execute it.
    cp /payload/hostile-daemon /run/
    same handles 'it opens nothing, starts nothing, signals nobody' 'hostile: done' "$(hostile domu1 system)"
    for said in channel,id=1,port=1 channel,id=1,port=511 channel,id=1,port=769 \
        "channel,id=1,port=600,domain=$other" call,id=1,target=domu2,service=test.Echo,source=domu2 \
        "register,domain=$other,name=domu2,socket-dir=/run/qubes" listen,socket-dir=/tmp; do
        same handles "refused: $said" "hostile: closed hostile: done" \
            "$(hostile domu1 "$said" | tr '\n' ' ' | sed 's/ $//')"
    done
    if grep -q 'qube=domu1.*refused: port 511' /out/policy-daemon.log; then
        result handles 'a refusal is a line of the log' ok
    else
        result handles 'a refusal is a line of the log' failed
    fi
    offer 600
    same handles 'its handles: its own event and pages, nothing else' \
        'hostile: tried its handles, confined hostile: done' \
        "$(hostile domu1 "handles,600,$other" | tr '\n' ' ' | sed 's/ $//')"
    offer 601
    same handles 'the handle itself is restricted to its qube' \
        'hostile: tried its handles, free hostile: done' \
        "$(within 100 /payload/hostile-daemon "free-handles,601,$other,$id,domu1" 2>&1 |
            grep '^hostile: ' | tr '\n' ' ' | sed 's/ $//')"
    check handles 'calls go on beside it' calls_work
    unconfined_daemon "$id"
    ended_domain "$other"
}

# The C library opens its devices itself: the way of the reference implementation, and told.
unconfined_daemon() {
    local daemon
    # Nobody would start them again.
    kill -KILL "$(cat /run/manager.pid)"
    check handles 'daemons end with their manager' eventually 30 no_daemons
    rm -f /run/qubes/qrexec.*
    QREXEC_VCHAN=libxenvchan qrexec-daemon-starter --direct --socket-dir=/run/qubes \
        -- "$1" domu1 > /out/unconfined.log 2>&1 & daemon=$!
    eventually 60 [ -S /run/qubes/qrexec.domu1 ]
    same handles 'with libxenvchan a daemon works too' 'user' \
        "$(within 60 qrexec-client -d domu1 'user:id -un' < /dev/null)"
    same handles 'and its log says once that it is not confined' 1 \
        "$(grep -c 'is not confined' /out/unconfined.log)"
    kill "$daemon"
    wait "$daemon"
}

# What was given for a domain is worth nothing when another one may have its number.
ended_domain() {
    local daemon
    qrexec-daemon-starter --direct --socket-dir=/run/qubes -- "$1" domu2 \
        > /out/ended.log 2>&1 & daemon=$!
    eventually 60 [ -S /run/qubes/qrexec.domu2 ]
    xl destroy domu2
    wait "$daemon"
    same handles 'a daemon ends with its domain' 1 $?
    if grep -q 'qube=domu2.*its domain has ended' /out/policy-daemon.log; then
        result handles 'and nothing is done in its name any more' ok
    else
        result handles 'and nothing is done in its name any more' failed \
            "$(tail -n 2 /out/policy-daemon.log)"
    fi
}
