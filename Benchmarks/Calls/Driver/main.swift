import BenchmarkReport
import Foundation
import LinuxSystem
import QrexecRuntime

let usage = """
    Usage: calls-bench [PROGRAMS]
           calls-bench --merge TARGET FILE…

    Measures calls in labs of its own, with the programs of the directory PROGRAMS (default
    .build/bin). In the environment: JSON=FILE writes the figures there as well, STRICT=1 ends with
    status 1 when a goal is missed, SCALE=0.1 makes a short run of one round, ONLY=PART measures one
    part (\(Part.allCases.map(\.rawValue).joined(separator: ", "))), CALLS=100000 makes so many calls
    in the one long run, STREAMS=PROGRAM is the chain of a stream in plain C, SESSION=PROGRAM a PAM
    session with a login shell in plain C, CALL=PROGRAM a whole call in plain C (and PROGRAM-dynamic
    the same, linked dynamically). --merge makes one list of several.
    """

func benchmark(_ programs: String) throws -> Int32 {
    let environment = ProcessInfo.processInfo.environment
    var settings = Settings(programs: programs)
    if let scale = environment["SCALE"].flatMap(Double.init) { settings.scale = scale }
    settings.streamReference = environment["STREAMS"]
    settings.sessionReference = environment["SESSION"]
    settings.callReference = environment["CALL"]
    settings.manyCalls = environment["CALLS"].flatMap(Int.init)
    if let only = environment["ONLY"] {
        guard let part = Part(rawValue: only) else { throw Problem("there is no part '\(only)'") }
        settings.parts = [part]
    }
    let report = try Measurements(settings).run()
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
