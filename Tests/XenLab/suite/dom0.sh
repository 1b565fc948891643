#!/bin/sh
# In dom0: groups of cases, one after the other. Each reports its cases in /out/results, and the time
# that it took in /out/times.
. ./steps.sh
. ./place.sh
cd /payload
for file in transport host calls many copies disposables manager handles limits destroyed bench; do
    [ ! -f "$file.sh" ] || . "./$file.sh"
done
for group in $(cat groups); do
    began=$(uptime_s)
    "group_$group"
    echo "$group	$(($(uptime_s) - began))" >> /out/times
    echo "$group: $(($(uptime_s) - began)) s"
done
exit $((failures > 0))
