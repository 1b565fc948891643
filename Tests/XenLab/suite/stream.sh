#!/bin/sh
# stream.sh DOMU: 8 MiB there and back.
head -c 8388608 /dev/urandom > /tmp/sent
timeout -s KILL 300 /payload/qrexec-client-vm "$1" test.Stream < /tmp/sent > /tmp/received || exit 1
cmp /tmp/sent /tmp/received
