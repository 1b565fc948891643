// Benchmarks of file copy and disposables in the lab: `make bench-services [JSON=FILE] [STRICT=1]`.
import BenchmarkReport
import Foundation

let arguments = CommandLine.arguments
let variables = ProcessInfo.processInfo.environment

if arguments.count > 2 || arguments.count == 2 && arguments[1].hasPrefix("-") {
    print(
        """
        usage: services-bench [QUBES-LAB]

        Opens files in disposables, and copies a file of 2 GiB and 20,000 small ones from qube to qube in a lab of its own, started
        with the program QUBES-LAB (default .build/bin/qubes-lab), and the same with tar in one qube,
        side by side. Needs 8 GiB of memory for files. In the environment: JSON=FILE writes the
        figures as JSON; with STRICT=1 the exit status is 1 when a goal is missed; QUICK=1 copies a
        tenth; REFERENCE=PROGRAM is the ring's benchmark in C, to compare with a copy in C.
        """)
    exit(arguments.contains("--help") ? 0 : 2)
}

do {
    var report = Report()
    let lab = try BenchmarkLab(
        program: arguments.count == 2 ? arguments[1] : ".build/bin/qubes-lab",
        configuration: DisposableBenchmark.configuration)
    defer { lab.down() }
    let copy = FileCopyBenchmark(
        lab: lab, quick: variables["QUICK"] == "1", reference: variables["REFERENCE"])
    try DisposableBenchmark(lab: lab).run(&report)
    try copy.run(&report)
    if let path = variables["JSON"], !path.isEmpty { try report.write(to: path) }
    if variables["STRICT"] == "1" && !report.isGood { exit(1) }
} catch {
    FileHandle.standardError.write(Data("services-bench: \(error)\n".utf8))
    exit(1)
}
