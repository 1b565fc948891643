# dom0 as `make install ROLE=dom0` leaves it on a host of Xen: accounts, policy, the qubes of xl.toml,
# and the units' programs.

policy_rules() {
    cat <<'RULES'
test.Exit      +7  @anyvm   dom0       deny
test.Echo      *   domu1    domu2      allow
test.Exit      *   domu1    domu2      allow
test.Signal    *   domu1    domu2      allow
test.Nothing   *   domu1    domu2      allow
test.Hold      *   domu1    domu2      allow
test.Hold      *   domu1    dom0       allow
test.Stream    *   domu1    domu2      allow
test.Sum       *   domu1    domu2      allow
test.Host      *   domu1    @dispvm    allow
test.Hold      *   domu1    @dispvm    allow
test.Host      *   domu1    third      allow
test.Ask       *   domu1    @anyvm     ask
qubes.Filecopy *   domu1    domu2      allow
test.Dom0      *   domu1    dom0       allow
*              *   @anyvm   @anyvm     deny
RULES
}

settings() {
    cat <<'SETTINGS'
[host]
start_timeout = 120
[qubes.dom0]
default_dispvm = "dvm"
[qubes.domu1]
label = "blue"
[qubes.domu2]
label = "yellow"
tags = ["online"]
[qubes.third]
[qubes.dvm]
template_for_dispvms = true
SETTINGS
    printf "xl_settings = ['%s']\n" "$(sed -n 's/xenlab.name=dvm/xenlab.name=@NAME@/; /^extra/p' \
        /etc/xen/dvm.cfg)"
}

start_manager() {
    unit qubes-xl-manager /out/manager.log
    manager=$started
    # For who has it started in a subshell, as a case does.
    echo "$manager" > /run/manager.pid
    eventually 60 [ -S /run/qubesd.sock ]
}

start_host() {
    accounts
    tmpfiles /usr/lib/tmpfiles.d/swift-qrexec-dom0.conf
    # As the kernel makes them, and as the rule of udev for dom0 changes them.
    chown root:root /dev/xen/* && chmod 600 /dev/xen/*
    devices
    ln -sf "$(command -v xl)" /usr/sbin/xl
    printf '#!/bin/sh\necho "$QREXEC_REMOTE_DOMAIN asked dom0"\nexit "${1:-0}"\n' \
        > /etc/qubes-rpc/test.Dom0
    printf '#!/bin/sh\necho begun\ncat > /dev/null\nexit 3\n' > /etc/qubes-rpc/test.Hold
    chmod 755 /etc/qubes-rpc/test.*
    policy_rules > /etc/qubes/policy.d/30-user.policy
    domain_of third > /etc/xen/third.cfg
    domain_of dvm > /etc/xen/dvm.cfg
    settings > /etc/qubes/xl.toml
    qubes-xl check || return 1
    unit qubes-qrexec-policy-daemon /out/policy-daemon.log
    policy=$started
    start_manager || return 1
    # The daemons' sockets are there when their agents are connected.
    eventually 60 [ -S /run/qubes/qrexec.domu1 ] && eventually 60 [ -S /run/qubes/qrexec.domu2 ]
}

group_host() {
    if start_host > /tmp/host 2>&1; then result host 'daemons and agents are connected' ok; else
        result host 'daemons and agents are connected' failed \
            "$(cat /tmp/host; tail -n 5 /out/manager.log /out/policy-daemon.log)"
        exit 1
    fi
}
