// Benchmarks of the policy engine and its service: `make bench-policy [JSON=FILE] [STRICT=1]`.
import BenchmarkReport
import Foundation
import LinuxSystem

let arguments = CommandLine.arguments

if arguments.count == 3, arguments[1] == "--echo" {
    try Servers.echo(arguments[2])
} else if arguments.count == 4, arguments[1] == "--qubesd" {
    let workload = Workload(rules: 0, qubes: Int(arguments[3]) ?? 30)
    try Servers.qubesd(arguments[2], workload.systemInformation)
} else if arguments.dropFirst().contains("--help") {
    print(
        """
        usage: policy-bench [DAEMON]

        Measures the policy engine, and with DAEMON (the program qrexec-dom0) its service.
        JSON=FILE in the environment writes the figures as JSON; with STRICT=1 the exit status is
        1 when a goal is missed.
        """)
} else {
    let environment = ProcessInfo.processInfo.environment
    let directory = NSTemporaryDirectory() + "policy-bench-\(getpid())"
    try FileManager.default.createDirectory(
        atPath: directory, withIntermediateDirectories: true)
    var report = Report()
    try InProcess.run(&report, directory: directory)
    if arguments.count > 1 {
        let program = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let service = OverSocket(
            directory: directory, program: program, daemon: arguments[1])
        try service.run(&report)
    }
    try? FileManager.default.removeItem(atPath: directory)
    if let path = environment["JSON"], !path.isEmpty { try report.write(to: path) }
    if environment["STRICT"] == "1" && !report.isGood { exit(1) }
}
