#!/bin/sh
# caller.sh: in a domU, calls one after the other; a line for each promise, `kept NAME` or
# `BROKEN NAME: WHY`.

# expect NAME STATUS OUTPUT ARGUMENT...: of a call with the input in $input.
expect() {
    local name=$1 wanted=$2 output=$3 said status
    shift 3
    said=$(printf '%s' "${input-}" | timeout -s KILL 100 qrexec-client-vm "$@" 2> /tmp/caller.err)
    status=$?
    if [ "$status" = "$wanted" ] && [ "$said" = "$output" ]; then
        echo "kept $name"
    else
        echo "BROKEN $name: status $status, '$said' $(head -n 1 /tmp/caller.err)"
    fi
}

case $1 in
    domu1)
        input='hello
' expect 'domU to domU, allowed: argument, input and output' 0 'domu1 Argument hello' \
            domu2 test.Echo+Argument
        expect 'the exit status of a service' 7 '' domu2 test.Exit+7
        expect 'a service that a signal ends' 143 '' domu2 test.Signal
        expect 'a service that does not exist' 127 '' domu2 test.Nothing
        expect 'domU to dom0: the exit status' 5 'domu1 asked dom0' dom0 test.Dom0+5
        ;;
    domu2)
        expect 'domU to domU, denied' 126 '' domu1 test.Echo
        expect 'a domU that does not exist' 126 '' nobody test.Echo
        expect 'domU to dom0, denied' 126 '' dom0 test.Exit+7
        ;;
esac
