#!/bin/sh
# In a domU with the qube's side of `make install`: services for the tests, and the agent.
. /payload/place.sh
accounts
tmpfiles /usr/lib/tmpfiles.d/swift-qrexec-vm.conf
devices
chown user:user /home/user
service() { cat > "/etc/qubes-rpc/$1"; chmod 755 "/etc/qubes-rpc/$1"; }
service test.Echo <<'S'
#!/bin/sh
read -r line
echo "$QREXEC_REMOTE_DOMAIN $1 $line"
S
service test.Exit <<'S'
#!/bin/sh
exit "$1"
S
service test.Signal <<'S'
#!/bin/sh
kill -TERM $$
S
# Says that it runs, and ends with its input.
service test.Hold <<'S'
#!/bin/sh
echo begun
cat > /dev/null
exit 3
S
service test.Stream <<'S'
#!/bin/sh
sh /payload/stream.sh make back & maker=$!
md5sum > /tmp/stream.sum
wait $maker
S
# Whether what came was right.
service test.Sum <<'S'
#!/bin/sh
cmp /tmp/stream.sum /payload/sum.there
S
service test.Host <<'S'
#!/bin/sh
echo "$(hostname) for $QREXEC_REMOTE_DOMAIN"
S
unit qubes-qrexec-agent /tmp/agent.log
