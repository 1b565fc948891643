#!/bin/sh
# witness.sh DOMU: in another domU: the other ends, and a server that waits for a client. Each must end
# with an error when the domain DOMU is destroyed.
run() { exec timeout -s KILL 100 ./vchan-cat "$@" < /dev/zero > /dev/null; }
run --listen --domain "$1" --port 73 & a=$!
run --connect --domain "$1" --port 74 & b=$!
run --listen --domain "$1" --port 75 & c=$!
wait $a; a=$?
wait $b; b=$?
wait $c; c=$?
echo "ended with $a $b $c"
[ $a = 1 ] && [ $b = 1 ] && [ $c = 1 ]
