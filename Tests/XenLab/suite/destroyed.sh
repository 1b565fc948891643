# A domain that is destroyed runs no cleanup: its peers, in dom0 and in another domU, see it all the
# same, as servers and as clients, and so does a server that still waits for it.

group_destroyed() {
    local id one status name a b c witness guard
    id=$(domain_id little) one=$(domain_id domu1)
    ask little "cd /payload; sh ./victim.sh $one"
    local victim=$number
    ask domu1 "cd /payload; sh ./witness.sh $id"
    witness=$number
    vchan-cat --listen --domain "$id" --port 71 < /dev/zero > /dev/null 2>/tmp/71 & a=$!
    vchan-cat --connect --domain "$id" --port 72 < /dev/zero > /dev/null 2>/tmp/72 & b=$!
    vchan-cat --listen --domain "$id" --port 76 < /dev/zero > /dev/null 2>/tmp/76 & c=$!
    answer little "$victim"
    xl destroy little
    for name in "server $a 71" "client $b 72" "waiting-server $c 76"; do
        set -- $name
        (sleep 100; kill -KILL "$2" 2>/dev/null) & guard=$!
        wait "$2"
        status=$?
        kill "$guard" 2>/dev/null
        if [ "$status" = 1 ]; then
            result destroyed "dom0's $1 sees the end of its peer's domain" ok
        else
            result destroyed "dom0's $1 sees the end of its peer's domain" failed \
                "status $status: $(cat "/tmp/$3")"
        fi
    done
    if answer domu1 "$witness"; then
        result destroyed "a domU's server, client and waiting server see it" ok
    else
        result destroyed "a domU's server, client and waiting server see it" failed
    fi
}
