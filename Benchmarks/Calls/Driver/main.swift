import Foundation
import LinuxSystem
import QrexecRuntime

let usage = """
    Usage: calls-bench [PROGRAMS]
           calls-bench --merge TARGET FILE…

    Measures calls in a lab of its own, with the programs of the directory PROGRAMS (default
    .build/bin). In the environment: JSON=FILE writes the figures there as well, STRICT=1 ends with
    status 1 when a goal is missed, SCALE=0.1 makes a short run. --merge makes one list of several.
    """

func benchmark(_ programs: String) throws -> Int32 {
    let environment = ProcessInfo.processInfo.environment
    let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    let load = own.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/calls-load"
    let lab = try BenchLab(programs: programs, load: load)
    defer { lab.down() }
    var measurements = Measurements(
        lab, scale: environment["SCALE"].flatMap { Double($0) } ?? 1)
    try measurements.run()
    let report = measurements.report
    if let path = environment["JSON"], !path.isEmpty { try report.write(to: path) }
    return environment["STRICT"] == "1" && !report.isGood ? 1 : 0
}

let arguments = Array(CommandLine.arguments.dropFirst())
var status: Int32 = 0
do {
    if arguments.first == "--help" {
        Terminal.print(usage)
    } else if arguments.first == "--merge", arguments.count > 2 {
        try Report.merge(Array(arguments[2...]), into: arguments[1])
    } else {
        status = try benchmark(arguments.first ?? ".build/bin")
    }
} catch {
    Terminal.printError("calls-bench: \(error)")
    status = 1
}
exit(status)
