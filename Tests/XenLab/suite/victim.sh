#!/bin/sh
# victim.sh DOMU: in the domU that will be destroyed: client and server of dom0 and of a domU, busy.
./vchan-cat --connect --domain 0 --port 71 < /dev/zero > /dev/null &
./vchan-cat --listen --domain 0 --port 72 < /dev/zero > /dev/null &
./vchan-cat --connect --domain "$1" --port 73 < /dev/zero > /dev/null &
./vchan-cat --listen --domain "$1" --port 74 < /dev/zero > /dev/null &
sleep 5
