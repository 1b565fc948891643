#!/bin/sh
# In a domU: with its quota of entries used up, a server backs off and then says so.
i=0
while [ $i -lt 900 ]; do
    pairs=
    # Many at a time: a process costs more than an entry. The names in one directory are limited too.
    for n in 0 1 2 3 4 5 6 7 8 9; do
        for m in 0 1 2 3 4; do pairs="$pairs data/fill/$i/$n$m x"; done
    done
    xenstore-write $pairs || break
    i=$((i + 50))
done
# One by one to the end: several are a transaction, which is tried for ever.
while [ $i -lt 1100 ]; do
    timeout -s KILL 20 xenstore-write "data/fill/more/$i" x 2> /dev/null || break
    i=$((i + 1))
done
said=$(timeout -s KILL 100 ./vchan-cat --listen --domain 0 --port 85 < /dev/null 2>&1)
xenstore-rm data/fill
echo "after $i entries: $said"
case $said in *--entry-nb*) exit 0 ;; esac
exit 1
