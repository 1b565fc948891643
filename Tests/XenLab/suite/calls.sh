# Real calls: agents in two domUs; daemons, policy service and the manager of qubes in dom0.

# Services of a qube, and its agent.
start_agent() {
    ask "$1" 'cd /payload; sh ./agent.sh'
    answer "$1" "$number" || result calls "the agent of $1 starts" failed
}

start_dom0() {
    mkdir -p /etc/qubes/policy.d /run/qubes/policy.d /etc/qubes-rpc /var/lib/qubes-xl
    cat > /etc/qubes/policy.d/30-test.policy <<'RULES'
test.Echo    *  domu1   domu2    allow
test.Stream  *  domu1   domu2    allow
test.Exit    *  domu1   domu2    allow
test.Dom0    *  domu2   @adminvm allow
*            *  @anyvm  @anyvm   deny
RULES
    printf '#!/bin/sh\necho "$QREXEC_REMOTE_DOMAIN asked dom0"\n' > /etc/qubes-rpc/test.Dom0
    chmod 755 /etc/qubes-rpc/test.Dom0
    {
        printf '[host]\nxl = "%s"\n' "$(command -v xl)"
        for name in domu1 domu2; do
            printf '[qubes.%s]\nlabel = "blue"\nxl = "/etc/xen/%s.cfg"\n' "$name" "$name"
        done
    } > /etc/qubes/xl.toml
    ./qubes-xl-manager --store-watch "$(command -v xenstore-watch)" >> /out/manager.log 2>&1 & manager=$!
    local tries=0
    until [ -S /run/qubesd.sock ]; do
        tries=$((tries + 1))
        [ $tries -lt 120 ] || return 1
        sleep 0.5
    done
    ./qrexec-policy-daemon >> /out/policy-daemon.log 2>&1 & policy=$!
    # The daemons' sockets are there when their agents are connected.
    until [ -S /run/qubes/qrexec.domu1 ] && [ -S /run/qubes/qrexec.domu2 ]; do
        tries=$((tries + 1))
        [ $tries -lt 120 ] || return 1
        sleep 0.5
    done
}

# call GROUP NAME DOMU COMMAND: a command line in a domU that says itself whether all was right.
call() {
    ask "$2" "$3"
    if answer "$2" "$number"; then result calls "$1" ok; else result calls "$1" failed; fi
}

group_calls() {
    start_agent domu1
    start_agent domu2
    if start_dom0; then result calls 'daemons and agents are connected' ok; else
        result calls 'daemons and agents are connected' failed
        tail -5 /out/manager.log /out/policy-daemon.log
        return
    fi
    call 'domU to domU, allowed: data both ways' domu1 \
        '[ "$(echo hello | timeout -s KILL 100 /payload/qrexec-client-vm domu2 test.Echo+Argument)" = \
           "domu1 Argument hello" ]'
    call 'the exit status of a service' domu1 \
        'timeout -s KILL 100 /payload/qrexec-client-vm domu2 test.Exit < /dev/null; [ $? = 7 ]'
    call 'domU to domU, denied' domu2 \
        'timeout -s KILL 100 /payload/qrexec-client-vm domu1 test.Echo < /dev/null; [ $? = 126 ]'
    call '8 MiB each way, checked' domu1 'sh /payload/stream.sh domu2'
    call 'domU to dom0' domu2 \
        '[ "$(timeout -s KILL 100 /payload/qrexec-client-vm dom0 test.Dom0 < /dev/null)" = \
           "domu2 asked dom0" ]'
    local said
    said=$(timeout 60 ./qrexec-client -d domu2 'user:id -un' < /dev/null)
    if [ "$said" = user ]; then result calls 'dom0 to domU' ok; else
        result calls 'dom0 to domU' failed "$said"
    fi
    # The decision is in the log, with who asked what and which rule decided.
    if grep -q 'test.Echo.*30-test.policy' /out/policy-daemon.log; then
        result calls 'the log names service and rule' ok
    else
        result calls 'the log names service and rule' failed \
            "$(tail -n 1 /out/policy-daemon.log)"
    fi
    ask domu2 'cat /tmp/agent.log'
    answer domu2 "$number"
    kill "$manager" "$policy"
}
