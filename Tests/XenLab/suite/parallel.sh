#!/bin/sh
# parallel.sh COUNT TARGET: so many calls of test.Hold at the same time, a few of which begin at a time:
# dom0 waits no more than seconds for a caller. Waits until each has begun or ended, lets them all end,
# and prints `BEGUN REFUSED`, then a line for each kind of end:
# `STATUS COUNT`, and what was said about the refusals.
count=$1 target=$2
work=$(mktemp -d)
mkfifo "$work/input"
# Open for both, so that nobody waits for the other end.
exec 3<> "$work/input"
# settle COUNT: until no more than so many are on their way.
settle() {
    local tries=0
    while [ $tries -lt 900 ]; do
        begun=$(cat "$work"/out.* 2> /dev/null | grep -c begun)
        ended=$(ls "$work" | grep -c '^status')
        [ $((i - begun - ended)) -gt "$1" ] || return 0
        sleep 0.5
        tries=$((tries + 1))
    done
}
i=0
while [ $i -lt "$count" ]; do
    {
        timeout -s KILL 200 qrexec-client-vm "$target" test.Hold < "$work/input" \
            > "$work/out.$i" 2> "$work/err.$i"
        echo $? > "$work/status.$i"
    } 3>&- &
    i=$((i + 1))
    [ $((i % 4)) != 0 ] || settle 4
done
settle 0
echo "$begun $ended"
# All ends of the pipe for writing are closed: the services' input ends.
exec 3>&-
wait
cat "$work"/status.* | sort | uniq -c | awk '{ print "status " $2, $1 }'
cat "$work"/err.* | sort | uniq -c | sort -rn | head -n 3
rm -rf "$work"
