import LinuxSystem
import SystemPackage

// The first argument says which part of a measurement this process is; without one all is measured.
let arguments = CommandLine.arguments
do {
    switch arguments.dropFirst().first {
    case "--ours":
        guard arguments.count > 3, let side = Int(arguments[2]), let task = Task(arguments[3...])
        else { throw BenchFailure(description: "--ours is for this program itself") }
        let isPair = [.batched, .published, .inPlace, .framed, .allocating].contains(task.what)
        let report = try isPair ? runPairs(task) : runSide(side, task)
        try Descriptor.writeAll(Array(report.line.utf8), to: 3)
    case "--feed": try Helper.feed(Int(arguments.last!)!)
    case "--drain": try Helper.drain(Int(arguments.last!)!)
    case "--busy": try Helper.busy(Int32(arguments.last!)!)
    default: CurrentProcess.exit(try Bench.main(Array(arguments.dropFirst())))
    }
    CurrentProcess.exit(0)
} catch {
    try? Descriptor.writeAll(Array("ring-bench: \(error)\n".utf8), to: 2)
    CurrentProcess.exit(1)
}
