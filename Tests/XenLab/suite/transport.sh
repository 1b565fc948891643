# The promises of a vchan between real domains: vchan-conformance on both sides, processes that die,
# peers that do harm. The many sizes of streams and frames are tried between processes (Tests/Models,
# VchanTests); here a few of them for each two that can meet, all kinds of rings together.

port=20000

# side ROLE OWN-TRANSPORT PEER-TRANSPORT PEER-DOMID OPTION...: the command line of one side.
side() {
    local role=$1 own=$2 other=$3 peer=$4
    shift 4
    echo "cd /payload; exec timeout -s KILL 300 ./vchan-conformance --role $role --transport $own" \
        "--peer-transport $other --domain $peer --port $port --closes 10 --bytes 200000 $*"
}

# between GROUP SERVER TRANSPORT CLIENT TRANSPORT OPTION...: one side in each of two domains.
between() {
    local group=$1 server=$2 s_transport=$3 client=$4 c_transport=$5 status=0 asked="" log line
    shift 5
    port=$((port + 10000))
    log=/tmp/report
    local began
    began=$(uptime_s)
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
    echo "$group: $(($(uptime_s) - began)) s"
    echo "transport, $group	$(($(uptime_s) - began))" >> /out/times
    while read -r line; do
        case $line in
            kept*) result "$group" "${line#kept    }" ok ;;
            BROKEN*) result "$group" "${line#BROKEN  }" failed ;;
        esac
    done < "$log"
    [ "$status" = 0 ] || { head -20 "$log"; result "$group" "both sides end with 0" failed "$status"; }
}

group_transport() {
    between 'Swift dom0, Swift domU' dom0 xen domu1 xen --part 0/29
    between 'Swift domU, Swift dom0' domu1 xen dom0 xen --part 4/29
    between 'Swift domU, Swift domU' domu1 xen domu2 xen --part 8/29
    between 'Swift dom0, C domU' dom0 xen domu1 libxenvchan --part 12/29
    between 'C dom0, Swift domU' dom0 libxenvchan domu1 xen --part 16/29
    between 'Swift domU, C domU' domu1 xen domu2 libxenvchan --part 20/29
    between 'C domU, Swift domU' domu1 libxenvchan domu2 xen --part 24/29
}
