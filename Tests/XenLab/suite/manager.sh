# qubes-xl and its manager, with the real xl behind them: list, start, shut down, kill, events, and the
# manager's own end.

state_of() { qubes-xl list | awk -v n="$1" '$1 == n { print $2 }'; }
is_state() { [ "$(state_of "$1")" = "$2" ]; }
has_domain() { xl domid "$1" > /dev/null 2>&1; }
has_no_domain() { ! has_domain "$1"; }

group_manager() {
    local before
    qubes-xl events > /out/events 2>&1 & local events=$!
    same manager 'the list: a domain that was there before the manager' Running "$(state_of domu1)"
    same manager 'the list: its number' "$(xl domid domu1)" \
        "$(qubes-xl list | awk '$1 == "domu1" { print $3 }')"
    same manager 'the list: one that does not run' Halted "$(state_of third)"
    same manager 'a call starts a halted qube' 'third for domu1' \
        "$(in_qube domu1 user 'qrexec-client-vm third test.Host' 2>&1)"
    same manager 'then it is listed as running' Running "$(state_of third)"
    check manager 'start tells that it runs already' qubes-xl start third
    before=$(xl domid third)
    check manager 'shut down' qubes-xl shutdown third
    same manager 'then it is halted' Halted "$(state_of third)"
    check manager 'by itself' sh -c '! grep "did not shut down" /out/manager.log'
    check manager 'and its domain is gone' has_no_domain third
    check manager 'start' qubes-xl start third
    [ "$before" != "$(xl domid third)" ] || echo 'third has its old number'
    xl destroy third
    check manager 'xl destroy by hand is seen' eventually 30 is_state third Halted
    check manager 'an event tells of it' grep -q 'third domain-shutdown' /out/events
    check manager 'start again' qubes-xl start third
    check manager 'kill' qubes-xl kill third
    check manager 'its domain is gone at once' has_no_domain third
    manager_restart
    kill "$events" 2> /dev/null
}

# The manager is killed in the middle of a call, and started anew.
manager_restart() {
    local list said
    list=$(qubes-xl list)
    in_qube domu1 user 'rm -f /tmp/hold /tmp/held /tmp/ended; mkfifo /tmp/hold
        setsid sh -c "qrexec-client-vm domu2 test.Hold < /tmp/hold > /tmp/held
            echo status \$? > /tmp/ended" < /dev/null > /dev/null 2>&1 &
        setsid sleep 1000 < /dev/null > /tmp/hold 2> /dev/null & echo $! > /tmp/keeper
        until grep -q begun /tmp/held; do sleep 0.2; done'
    kill -KILL "$manager"
    wait "$manager" 2> /dev/null
    check manager 'killed and started again' start_manager
    check manager 'then the list is the same' eventually 60 same_list "$list"
    check manager 'and its daemons are connected' eventually 60 [ -S /run/qubes/qrexec.domu2 ]
    same manager 'calls work again' 'domu1  hi' \
        "$(in_qube domu1 user 'echo hi | qrexec-client-vm domu2 test.Echo' 2>&1)"
    said=$(in_qube domu1 user 'kill $(cat /tmp/keeper); i=0
        until [ -s /tmp/ended ] || [ $i = 60 ]; do sleep 0.5; i=$((i + 1)); done; cat /tmp/ended')
    same manager 'a call from before went on, and ends well' 'status 3' "$said"
}

same_list() { [ "$(qubes-xl list)" = "$1" ]; }
