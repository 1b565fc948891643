import LinuxSystem
import QrexecDom0
import QrexecRuntime

MultiCall(
    program: "qrexec-dom0",
    tools: [
        "qrexec-daemon": DaemonProgram.run,
        "qrexec-policy-daemon": PolicyDaemon.run,
    ]
).run()
