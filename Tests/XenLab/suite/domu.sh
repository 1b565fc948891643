#!/bin/sh
# In a domU: runs what dom0 asks for, one command line after the other, and says how each ended. The
# output of a command is the console's, each line behind the command's number.
. /lib/xenlab/common.sh
last=0
[ ! -x /usr/lib/qubes/qrexec-agent ] || sh ./qube.sh
# A qube: nobody asks it for anything in this way.
[ -z "${XENLAB_ALONE-}" ] || [ ! -x /usr/lib/qubes/qrexec-agent ] || exit 0

serve() {
    local line number command status
    line=$(xenstore-read xenlab/run 2>/dev/null) || return 1
    number=${line%% *} command=${line#* }
    [ "$number" != "$last" ] || return 1
    last=$number
    if [ "$command" = end ]; then return 0; fi
    sh -c "$command" > /tmp/output 2>&1
    status=$?
    sed "s/^/[$number] /" /tmp/output
    xenstore-write data/xenlab/ended "$number $status"
    return 1
}

wait_node xenlab/run serve
