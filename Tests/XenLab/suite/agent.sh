#!/bin/sh
# In a domU: some services, and the agent.
ln -sfn /run /var/run
mkdir -p /etc/qubes-rpc /run/qubes
mkdir -p /etc/pam.d
for kind in auth account session; do echo "$kind required /payload/pam_permit.so"; done \
    > /etc/pam.d/qrexec
service() { cat > "/etc/qubes-rpc/$1"; chmod 755 "/etc/qubes-rpc/$1"; }
service test.Echo <<'S'
#!/bin/sh
read -r line
echo "$QREXEC_REMOTE_DOMAIN $1 $line"
S
service test.Exit <<'S'
#!/bin/sh
exit 7
S
service test.Stream <<'S'
#!/bin/sh
exec cat
S
for program in qrexec-client-vm qrexec-agent-data; do
    ln -sf "/payload/$program" "/usr/bin/$program"
done
setsid /payload/qrexec-agent < /dev/null > /tmp/agent.log 2>&1 &
sleep 1
kill -0 $! || { cat /tmp/agent.log; exit 1; }
