import LinuxSystem
import QrexecAgent
import QrexecRuntime
import QubesServices

MultiCall(
    program: "qrexec-vm",
    tools: [
        "qrexec-agent": AgentProgram.run,
        "qrexec-agent-data": AgentDataProgram.run,
        "qrexec-fork-server": ForkServerProgram.run,
    ].merging(ServiceTools.all) { tool, _ in tool }
).run()
