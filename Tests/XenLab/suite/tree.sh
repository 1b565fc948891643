#!/bin/sh
# tree.sh make DIRECTORY: a tree with what a copy can get wrong. tree.sh show DIRECTORY: all that is to
# be the same afterwards, a line for each thing.
make() {
    mkdir -p "$1/deep/er/and/er" "$1/empty" "$1/private" "$1/two words"
    cd "$1" || exit 1
    echo text > file
    : > nothing
    head -c 3000001 /payload/block > 'two words/large one'
    cat /payload/block >> 'two words/large one'
    echo deep > deep/er/and/er/end
    echo 'Grüße' > 'Grüße'
    echo program > program && chmod 755 program
    echo read > private/read-only && chmod 400 private/read-only
    echo group > private/group && chmod 664 private/group
    # A hole.
    dd if=/dev/zero of=sparse bs=1 count=0 seek=2000000 2> /dev/null
    ln -s file link
    ln -s ../file deep/up
    ln -s two\ words/large\ one to-large
    ln -s nowhere broken
    i=0
    while [ $i -lt 200 ]; do
        echo "$i" > "deep/$i"
        i=$((i + 1))
    done
    chmod 700 private
    touch -d '2001-02-03 04:05:06' file program private/group empty
    touch -d '1999-12-31 23:59:59' 'two words' deep/er
}
show() {
    cd "$1" || exit 1
    find . -type l | sort | while read -r path; do echo "$path -> $(readlink "$path")"; done
    find . ! -type l | sort | while read -r path; do stat -c '%n %F %a %Y' "$path"; done
    find . -type f | sort | while read -r path; do md5sum "$path"; done
}
case $1 in
    make) make "$2" ;;
    show) show "$2" ;;
esac
