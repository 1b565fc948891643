# Sourced in dom0 and in domUs: what systemd does on Debian with what `make install` has put there.

# tmpfiles FILE: makes and changes what its lines say (d and z).
tmpfiles() {
    local kind paths mode user group path
    grep '^[dz] ' "$1" | while read -r kind paths mode user group _; do
        [ "$kind" = z ] || mkdir -p "$paths"
        for path in $paths; do
            [ ! -e "$path" ] || { chown "$user:$group" "$path" && chmod "$mode" "$path"; }
        done
    done
}

# unit NAME LOG OPTION...: starts what its file says, without systemd; $started is the process.
unit() {
    local file=/usr/lib/systemd/system/$1.service log=$2 line
    shift 2
    sed -n 's/^ExecStartPre=+\{0,1\}//p' "$file" > /tmp/before
    while read -r line; do eval "$line"; done < /tmp/before
    setsid $(sed -n 's/^ExecStart=//p' "$file") "$@" < /dev/null >> "$log" 2>&1 &
    started=$!
}

# devices: as the rule of udev that is installed says.
devices() { chown root:qubes /dev/xen/* && chmod 660 /dev/xen/*; }

accounts() {
    ln -sfn /run /var/run
    grep -q '^qubes:' /etc/group || echo 'qubes:x:990:user' >> /etc/group
}
