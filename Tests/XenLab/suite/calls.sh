# Calls in every direction: allowed, denied, asked; statuses, logs, who may call from dom0.

# The prompt agent on a "terminal" that a script answers.
start_prompts() {
    rm -f /tmp/answers
    mkfifo /tmp/answers
    qrexec-policy-agent --terminal < /tmp/answers > /tmp/questions 2>&1 & prompts=$!
    exec 4> /tmp/answers
    eventually 30 [ -S /run/qubes/policy-agent.sock ]
}

# The client ends the output that it was given: it gets one of its own.
asking='said=$(echo hi | qrexec-client-vm domu2 test.Ask); echo "$said status $?"'

# asked ANSWER: makes domu1's call to test.Ask, answers the question, and prints status and output.
asked() {
    : > /tmp/questions
    in_qube domu1 user "$asking" > /tmp/asked 2>&1 & local call=$!
    eventually 60 grep -q '^Target' /tmp/questions || echo 'nobody was asked'
    echo "$1" >&4
    wait "$call"
    cat /tmp/asked
}

group_calls() {
    in_qube domu1 user 'sh /payload/caller.sh domu1' | take calls
    in_qube domu2 user 'sh /payload/caller.sh domu2' | take calls
    same calls 'dom0 to domU: a command as a user' user "$(in_qube domu2 user 'id -un')"
    same calls 'dom0 to domU: a command as root' root "$(in_qube domu2 root 'id -un')"
    same calls 'dom0 to domU: a service' 'dom0 x hi' \
        "$(echo hi | within 60 qrexec-client -d domu2 'DEFAULT:QUBESRPC test.Echo+x dom0')"
    in_qube domu2 user 'exit 9'
    same calls 'dom0 to domU: the exit status' 9 $?
    same calls "dom0 to domU by dom0's user" domu2 \
        "$(within 60 su user -c 'qrexec-client -d domu2 user:hostname' < /dev/null 2>&1)"
    in_qube domu2 root 'cp /etc/qubes-rpc/test.Echo /etc/qubes-rpc/test.Ask'
    start_prompts
    contains calls 'asked, and the answer is yes' 'domu1  hi status 0' "$(asked domu2)"
    contains calls 'asked, and the answer is no' '*status 126' "$(asked deny)"
    exec 4>&-
    wait "$prompts"
    contains calls 'nobody is there to be asked' '*status 126' \
        "$(in_qube domu1 user "$asking" 2>&1)"
    # The decision is in the log, with who asked what and which rule decided.
    check calls 'the log names service and rule' \
        grep -q 'test.Echo.*30-user.policy' /out/policy-daemon.log
}
