# A tree of files from one domU to another.

group_copies() {
    local sent got
    in_qube domu1 user 'sh /payload/tree.sh make /home/user/tree'
    check copies 'a tree from domU to domU is copied' in_qube domu1 user \
        'cd && qvm-copy-to-vm domu2 tree'
    sent=$(in_qube domu1 user 'sh /payload/tree.sh show /home/user/tree')
    got=$(in_qube domu2 user 'sh /payload/tree.sh show /home/user/QubesIncoming/domu1/tree')
    echo "$sent" > /tmp/sent
    echo "$got" > /tmp/got
    if [ "$(echo "$sent" | wc -l)" -gt 400 ] && [ "$sent" = "$got" ]; then
        result copies 'names, kinds, modes, times, links and contents are the same' ok
    else
        result copies 'names, kinds, modes, times, links and contents are the same' failed \
            "$(diff /tmp/sent /tmp/got | head -n 6)"
    fi
    in_qube domu1 user 'cd && qvm-copy-to-vm domu2 tree 2> /tmp/again'
    case $? in
        0) result copies 'what is there is not overwritten' failed 'it was copied again' ;;
        *) result copies 'what is there is not overwritten' ok ;;
    esac
    in_qube domu2 user 'cd && qvm-copy-to-vm domu1 .profile 2> /dev/null; [ $? != 0 ]' &&
        in_qube domu2 user 'echo x > note; qvm-copy-to-vm domu1 note' 2> /tmp/denied
    contains copies 'a copy that policy denies' '*refused*' "$(cat /tmp/denied)"
}
