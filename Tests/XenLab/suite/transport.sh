# The promises of a vchan between real domains: vchan-conformance on both sides, processes and a
# domain that die, peers that do harm.

port=20000

# side ROLE OWN-TRANSPORT PEER-TRANSPORT PEER-DOMID OPTION...: the command line of one side.
side() {
    local role=$1 own=$2 other=$3 peer=$4
    shift 4
    echo "cd /payload; exec timeout -s KILL 120 ./vchan-conformance --role $role --transport $own" \
        "--peer-transport $other --domain $peer --port $port --closes 10 --bytes 200000 $*"
}

# between GROUP SERVER TRANSPORT CLIENT TRANSPORT OPTION...: one side in each of two domains.
between() {
    local group=$1 server=$2 s_transport=$3 client=$4 c_transport=$5 status=0 asked="" log line
    shift 5
    port=$((port + 10000))
    log=/tmp/report
    local began
    began=$(cut -d. -f1 /proc/uptime)
    local s_line c_line
    s_line=$(side server "$s_transport" "$c_transport" "$(domain_id "$client")" "$@")
    c_line=$(side client "$c_transport" "$s_transport" "$(domain_id "$server")" "$@")
    if [ "$server" != dom0 ]; then ask "$server" "$s_line"; s_number=$number; fi
    if [ "$client" != dom0 ]; then ask "$client" "$c_line"; c_number=$number; fi
    : > "$log"
    # What dom0 does not take part in is told by the server's console.
    if [ "$server" = dom0 ]; then sh -c "$s_line" > "$log" 2>&1 || status=$?; fi
    if [ "$client" = dom0 ]; then sh -c "$c_line" > "$log" 2>&1 || status=$?; fi
    if [ "$server" != dom0 ]; then answer "$server" "$s_number" || status=$?; fi
    if [ "$client" != dom0 ]; then answer "$client" "$c_number" || status=$?; fi
    [ -s "$log" ] || sed -n "s/\r$//; s/^\[$s_number\] //p" "/lab/log/guest-$server.log" > "$log"
    echo "  $group: $(($(cut -d. -f1 /proc/uptime) - began)) s"
    while read -r line; do
        case $line in
            kept*) result "$group" "${line#kept    }" ok ;;
            BROKEN*) result "$group" "${line#BROKEN  }" failed ;;
        esac
    done < "$log"
    [ "$status" = 0 ] || { head -20 "$log"; result "$group" "both sides end with 0" failed "$status"; }
}

group_transport() {
    between 'Swift dom0, Swift domU' dom0 xen domu1 xen --part 0/8
    between 'Swift domU, Swift dom0' domu1 xen dom0 xen --part 1/8
    between 'Swift domU, Swift domU' domu1 xen domu2 xen --part 2/8
    between 'Swift domU, Swift domU (roles changed)' domu2 xen domu1 xen --part 3/8
    between 'Swift dom0, C domU' dom0 xen domu1 libxenvchan --part 4/8
    between 'C dom0, Swift domU' dom0 libxenvchan domu1 xen --part 5/8
    between 'Swift domU, C domU' domu1 xen domu2 libxenvchan --part 6/8
    between 'C domU, Swift domU' domu1 libxenvchan domu2 xen --part 7/8
}

# A domain that is destroyed runs no cleanup: its peers, in dom0 and in another domU, see it all the
# same, as servers and as clients, and so does a server that still waits for it.
group_destroyed() {
    local id status name
    id=$(domain_id domu3)
    ask domu3 "cd /payload; sh ./victim.sh $one"
    local victim=$number
    ask domu1 "cd /payload; sh ./witness.sh $id"
    local witness=$number
    ./vchan-cat --listen --domain "$id" --port 71 < /dev/zero > /dev/null 2>/tmp/71 & local a=$!
    ./vchan-cat --connect --domain "$id" --port 72 < /dev/zero > /dev/null 2>/tmp/72 & local b=$!
    ./vchan-cat --listen --domain "$id" --port 76 < /dev/zero > /dev/null 2>/tmp/76 & local c=$!
    answer domu3 "$victim"
    xl destroy domu3
    for name in "server $a 71" "client $b 72" "waiting-server $c 76"; do
        set -- $name
        (sleep 100; kill -KILL "$2" 2>/dev/null) & local guard=$!
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

# Each limit is an error that names it and the way to raise it.
group_limits() {
    local said
    echo 40 > /sys/module/xen_gntalloc/parameters/limit
    # Two channels of 33 pages: the second one is beyond the limit.
    ./vchan-cat --listen --domain "$one" --port 81 < /dev/null > /dev/null 2>&1 &
    local first=$!
    sleep 1
    said=$(within 30 ./vchan-cat --listen --domain "$one" --port 82 < /dev/null 2>&1)
    kill "$first"
    echo 1024 > /sys/module/xen_gntalloc/parameters/limit
    case $said in
        *xen_gntalloc/parameters/limit*) result limits 'grants' ok ;;
        *) result limits 'grants' failed "$said" ;;
    esac
    # The shell itself needs descriptors for redirections: they come first.
    said=$(exec 2>&1 < /dev/null; ulimit -n 6
        exec timeout -s KILL 30 ./vchan-cat --listen --domain "$one" --port 83)
    case $said in
        *LimitNOFILE*) result limits 'descriptors' ok ;;
        *) result limits 'descriptors' failed "$said" ;;
    esac
    mv /dev/xen/gntalloc /dev/xen/moved
    said=$(within 30 ./vchan-cat --listen --domain "$one" --port 84 < /dev/null 2>&1)
    mv /dev/xen/moved /dev/xen/gntalloc
    case $said in
        */dev/xen/gntalloc*xen-gntalloc*) result limits 'a missing device' ok ;;
        *) result limits 'a missing device' failed "$said" ;;
    esac
    # The quota of entries: 1000 for a domU; ours backs off for ten seconds, then says so.
    ask domu1 'cd /payload; sh ./fill-store.sh'
    if answer domu1 "$number"; then
        result limits 'entries in the store' ok
    else
        result limits 'entries in the store' failed
    fi
    ./vchan-cat --connect --domain 0 --port 86 < /dev/null > /tmp/own 2>&1
    case $(cat /tmp/own) in
        *'is this domain'*) result limits 'a vchan to oneself' ok ;;
        *) result limits 'a vchan to oneself' failed "$(cat /tmp/own)" ;;
    esac
}
