#!/bin/sh
# stream.sh make TAG: 64 MiB on standard output, no two parts of which are the same.
# stream.sh both COMMAND...: sends them (there) to the service test.Stream by that command, while as many
# come back; fails if those are not the right ones, or the status of the command is not 0.
make() {
    i=0
    while [ $i -lt 68 ]; do
        echo "$1 $i"
        cat /payload/block
        i=$((i + 1))
    done | head -c 67108864
}
case $1 in
    make) make "$2" ;;
    both)
        shift
        make there | { timeout -s KILL 300 "$@"; echo $? > /tmp/stream.status; } |
            md5sum > /tmp/stream.back
        echo "status $(cat /tmp/stream.status), sum $(cat /tmp/stream.back)"
        [ "$(cat /tmp/stream.status)" = 0 ] && cmp -s /tmp/stream.back /payload/sum.back
        ;;
esac
