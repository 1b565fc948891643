#!/bin/sh
# little.sh WHAT PATTERN: in a domU, uses one thing up, and prints what vchan-cat says then: that must
# have the pattern.
PATH=/payload:$PATH
cd /tmp || exit 1
use_up() {
    case $1 in
        channels)
            echo 8448 > /sys/module/xen_gntalloc/parameters/limit
            i=0
            while [ $i -lt 40 ]; do
                vchan-cat --listen --domain 0 --port "1$((100 + i))" < /dev/zero > /dev/null \
                    2> "/tmp/channel.$i" & pids="$pids $!"
                sleep 0.2
                ! grep -q . "/tmp/channel.$i" || break
                i=$((i + 1))
            done
            cat "/tmp/channel.$i"
            ;;
        mappings)
            for i in 1 2 3 4 5 6 7 8; do
                vchan-cat --connect --domain 0 --port "9$i" < /dev/zero > /dev/null \
                    2> "/tmp/mapping.$i" & pids="$pids $!"
            done
            i=0
            until grep -qs . /tmp/mapping.* || [ $i = 100 ]; do
                sleep 0.2
                i=$((i + 1))
            done
            cat /tmp/mapping.*
            ;;
        watches)
            # Two large groups, then one by one until there is no room: who finds none ends.
            for count in 50 50; do
                xenstore-watch $(seq 1 $count | sed "s#.*#data/watch/&#") > /dev/null 2>&1 &
                pids="$pids $!"
            done
            i=0 refused=0
            while [ $refused -lt 3 ] && [ $i -lt 100 ]; do
                xenstore-watch "data/watch/$i" > /dev/null 2>&1 & watcher=$!
                sleep 0.3
                if kill -0 $watcher 2> /dev/null; then singles="$singles $watcher"; else
                    refused=$((refused + 1))
                fi
                i=$((i + 1))
            done
            timeout -s KILL 30 vchan-cat --connect --domain 0 --port 87 < /dev/null 2>&1
            kill $singles
            ;;
        entries)
            i=0
            while [ $i -lt 900 ]; do
                set --
                # Many at a time: a process costs more than an entry. The names in one directory are
                # limited too.
                for n in 0 1 2 3 4 5 6 7 8 9; do
                    for m in 0 1 2 3 4; do set -- "$@" "data/fill/$i/$n$m" x; done
                done
                xenstore-write "$@" || break
                i=$((i + 50))
            done
            # One by one to the end: several are a transaction, which is tried for ever.
            while [ $i -lt 1100 ]; do
                timeout -s KILL 20 xenstore-write "data/fill/more/$i" x 2> /dev/null || break
                i=$((i + 1))
            done
            timeout -s KILL 100 vchan-cat --listen --domain 0 --port 85 < /dev/null 2>&1
            xenstore-rm data/fill
            ;;
        presences)
            set --
            i=4000
            while [ $i -lt 4040 ]; do
                set -- "$@" "data/vchan-peers/$i" 1
                i=$((i + 1))
            done
            xenstore-write "$@"
            timeout 2 vchan-cat --listen --domain 0 --port 89 < /dev/null
            xenstore-list data/vchan-peers | grep ^40 || echo none
            ;;
        module)
            rmmod xen_gntalloc
            timeout -s KILL 30 vchan-cat --listen --domain 0 --port 88 < /dev/null 2>&1
            insmod /lib/xenlab/ko/xen-gntalloc.ko
            ;;
    esac
}
use_up "$1" > /tmp/said 2>&1
[ -z "$pids" ] || kill $pids 2> /dev/null
cat /tmp/said
grep -q -e "$2" /tmp/said
