# Each limit is met with an error that names it and the way to raise it.

# names CASE TEXT PATTERN: kept when the text has what the pattern says.
names() { contains limits "$1" "$3" "$2"; }

limits_of_dom0() {
    local said one limit device first
    one=$(domain_id domu1)
    limit=/sys/module/xen_gntalloc/parameters/limit
    echo 40 > $limit
    # Two channels of 33 pages: the second one is beyond the limit.
    vchan-cat --listen --domain "$one" --port 81 < /dev/null > /dev/null 2>&1 & first=$!
    eventually 30 xenstore-exists "data/vchan/$one/81/event-channel"
    said=$(within 30 vchan-cat --listen --domain "$one" --port 82 < /dev/null 2>&1)
    kill "$first"
    echo 1024 > $limit
    names 'grants' "$said" '*xen_gntalloc/parameters/limit*'
    # The shell itself needs descriptors for redirections: they come first.
    said=$(exec 2>&1 < /dev/null; ulimit -n 6
        exec timeout -s KILL 30 /payload/vchan-cat --listen --domain "$one" --port 83)
    names 'descriptors' "$said" '*LimitNOFILE*'
    for device in gntalloc evtchn; do
        mv /dev/xen/$device /dev/xen/moved
        said=$(within 30 vchan-cat --listen --domain "$one" --port 84 < /dev/null 2>&1)
        mv /dev/xen/moved /dev/xen/$device
        names "a missing device: $device" "$said" "*/dev/xen/$device*xen-$device*"
    done
    said=$(within 30 vchan-cat --connect --domain 0 --port 86 < /dev/null 2>&1)
    names 'a vchan to oneself' "$said" '*is this domain*'
    said=$(within 30 vchan-cat --connect --domain 4000 --port 86 < /dev/null 2>&1)
    names 'a domain that does not exist' "$said" '*4000*'
}

# little CASE WHAT PATTERN: in the domU that was given little of everything.
little() {
    ask little "cd /payload; sh ./little.sh $2 '$3'"
    if answer little "$number"; then result limits "$1" ok; else
        result limits "$1" failed "$(tail -n 3 /lab/log/guest-little.log)"
    fi
}

group_limits() {
    local id i servers=
    domain_of little max_event_channels=28 max_maptrack_frames=1 > /etc/xen/little.cfg
    xl create -q /etc/xen/little.cfg
    limits_of_dom0
    little 'event channels' channels max_event_channels
    # 8 channels of 33 pages, of which a frame of the map has room for 256.
    id=$(domain_id little)
    for i in 1 2 3 4 5 6 7 8; do
        vchan-cat --listen --domain "$id" --port "9$i" < /dev/zero > /dev/null 2>&1 &
        servers="$servers $!"
    done
    little 'pages of others' mappings max_maptrack_frames
    kill $servers 2> /dev/null
    little 'watches in the store' watches watch-nb
    little 'entries in the store' entries entry-nb
    little 'entries for peers that are gone are removed' presences none
    little 'a missing module' module /dev/xen/gntalloc.*xen-gntalloc
}
