import LinuxSystem
import QrexecDom0
import QrexecRuntime
import QubesServices

var tools: [String: MultiCall.Tool] = [
    "qrexec-client": ClientProgram.run,
    "qrexec-daemon": DaemonProgram.run,
    StarterProgram.name: StarterProgram.run,
    "qrexec-policy-daemon": PolicyDaemon.run,
    "qrexec-policy": PolicyExec.run,
    "qrexec-policy-exec": PolicyExec.run,
    "qrexec-policy-agent": PromptAgentProgram.run,
    "qubes-policy-admin": PolicyAdminProgram.run,
]
tools.merge(ServiceTools.dom0) { tool, _ in tool }
for service in PolicyAdminProgram.services { tools[service] = PolicyAdminProgram.run }

MultiCall(program: "qrexec-dom0", tools: tools).run()
