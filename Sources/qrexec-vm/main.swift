import LinuxSystem
import QrexecAgent
import QrexecRuntime
import QubesServices

MultiCall(
    program: "qrexec-vm",
    tools: [
        "qrexec-agent": AgentProgram.run,
        "qrexec-agent-data": AgentDataProgram.run,
        "qrexec-client-vm": ClientVM.run,
        // The name that releases before R4.0 used.
        "qrexec_client_vm": ClientVM.run,
    ].merging(ServiceTools.all) { tool, _ in tool }
).run()
