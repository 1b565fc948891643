import QrexecRuntime
import XenHost

MultiCall(
    program: "qubes-xl",
    tools: ["qubes-xl": XLProgram.run, "qubes-xl-manager": ManagerProgram.run]
).run()
