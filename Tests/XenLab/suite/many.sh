# More calls at a time than a domain may share pages for, and streams in both directions.

limit_file=/sys/module/xen_gntalloc/parameters/limit

# Calls from domu1, where the pages of each are.
group_many() {
    local said default
    default=$(in_qube domu1 root "cat $limit_file")
    same many "the limit of a kernel that was not told otherwise" 1024 "$default"
    said=$(patience=280 in_qube domu1 user 'sh /payload/parallel.sh 34 domu2')
    # 33 pages for a call, of 1024.
    case $said in
        *"$limit_file"*) result many '34 calls with that limit: the refusals name it' ok ;;
        *) result many '34 calls with that limit: the refusals name it' failed "$said" ;;
    esac
    echo "$said" > /out/many
    same many '34 calls with that limit: each one begins or is refused' 34 \
        "$(echo "$said" | awk 'NR == 1 { print $1 + $2 }')"
    same many '34 calls with that limit: those that began end well' \
        "$(echo "$said" | awk 'NR == 1 { print $1 }')" \
        "$(echo "$said" | awk '$1 == "status" && $2 == 3 { print $3 }')"
    in_qube domu1 root "echo 8448 > $limit_file"
    said=$(patience=280 in_qube domu1 user 'sh /payload/parallel.sh 34 domu2')
    echo "$said" >> /out/many
    same many '34 calls with a raised limit' '34 0 status 3 34' "$(echo $said)"
}

group_streams() {
    local patience=300
    check streams 'domU to domU: 64 MiB each way at the same time' in_qube domu1 user \
        'sh /payload/stream.sh both qrexec-client-vm domu2 test.Stream'
    check streams 'domU to domU: what arrived there' in_qube domu1 user \
        'qrexec-client-vm domu2 test.Sum'
}
