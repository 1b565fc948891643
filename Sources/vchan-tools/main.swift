import QrexecRuntime
import VchanTools

MultiCall(
    program: "vchan-tools",
    tools: [
        "vchan-cat": VchanCat.run,
        "vchan-conformance": ConformanceProgram.run,
        "vchan-fuzz": FuzzProgram.run,
    ]
).run()
