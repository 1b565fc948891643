#!/bin/sh
# In dom0: the whole suite of the rig, one boot. Each group reports its cases in /out/results.
. ./steps.sh
cd /payload
. ./transport.sh
. ./calls.sh
. ./handles.sh
[ ! -f bench.sh ] || . ./bench.sh

one=$(domain_id domu1) two=$(domain_id domu2)
groups=$(cat groups)
for group in $groups; do
    began=$(cut -d. -f1 /proc/uptime)
    "group_$group"
    echo "$group: $(($(cut -d. -f1 /proc/uptime) - began)) s"
done
for name in domu1 domu2; do ask "$name" end; done
exit $((failures > 0))
