# Calls to @dispvm: a domain for each, made by xl, and gone with its call.

disposables_left() { xl list | awk '$1 ~ /^disp/' | wc -l; }
none_left() { [ "$(disposables_left)" = 0 ]; }
none_on_disk() { [ -z "$(ls /var/lib/qubes-xl/disposables)" ]; }

group_disposables() {
    local said
    said=$(in_qube domu1 user 'qrexec-client-vm @dispvm test.Host < /dev/null' 2>&1)
    contains disposables 'the service runs in a new domain' 'disp[0-9]* for domu1' "$said"
    check disposables 'it is gone after the call' eventually 60 none_left
    check disposables 'the manager has forgotten it' sh -c '! qubes-xl list --names | grep ^disp'
    # A caller that is killed in the middle.
    said=$(in_qube domu1 user 'rm -f /tmp/hold /tmp/held; mkfifo /tmp/hold
        qrexec-client-vm @dispvm test.Hold < /tmp/hold > /tmp/held 2>&1 & holder=$!
        exec 3> /tmp/hold; i=0
        until grep -q begun /tmp/held || [ $i = 300 ]; do sleep 0.2; i=$((i + 1)); done
        cat /tmp/held; kill -KILL $holder; wait $holder; echo "status $?"' 2>&1)
    contains disposables 'a caller is killed while its disposable works' 'begun*status 137' "$said"
    check disposables 'its disposable is gone too' eventually 60 none_left
    check disposables 'nothing of them is left on the disk' \
        eventually 60 none_on_disk
}
