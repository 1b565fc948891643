import LinuxSystem
import QrexecRuntime

// Makes calls inside a qube of the lab, and serves them. Started as a service, its name says what
// it does (bench.Sink, bench.Source+BYTES, bench.Both+BYTES).
let name = CurrentProcess.arguments.first?.split(separator: "/").last.map(String.init) ?? ""
var rest = Array(CurrentProcess.arguments.dropFirst())
let task = name.hasPrefix("bench.") ? name : rest.isEmpty ? "--help" : rest.removeFirst()

do {
    CurrentProcess.ignoreBrokenPipes()
    switch (task, rest.count) {
    case ("spawn", 1...): try Yardstick.spawn(count: Int(rest[0]) ?? 0, Array(rest.dropFirst()))
    case ("chain", 1): try Yardstick.chain(rounds: Int(rest[0]) ?? 0)
    case ("chain-link", 0): try Yardstick.passOn()
    case ("calls", 5): try CallLoad(rest).run()
    case ("long-lived", 5): try LongLivedLoad(CallLoad(rest)).run()
    case ("worker", 5): try LongLivedLoad(CallLoad(rest)).work()
    case ("hold", 3): try HeldCalls.run(count: Int(rest[0]) ?? 0, target: rest[1], rest[2])
    case ("serve", 1): try SocketService(path: rest[0]).run()
    case ("mark", 0): Terminal.print("pid \(CurrentProcess.id)")
    case ("source", 1), ("bench.Source", 1): try Stream.write(bytes: Int(rest[0]) ?? 0)
    case ("sink", 0), ("bench.Sink", 0): try Stream.readAll()
    case ("both", 1), ("bench.Both", 1): try Stream.exchange(bytes: Int(rest[0]) ?? 0)
    case ("streams", 4): try StreamLoad(rest).run()
    default:
        Terminal.printError("calls-load: started by calls-bench, inside a qube of the lab")
        CurrentProcess.exit(task == "--help" ? 0 : 2)
    }
} catch {
    Terminal.printError("calls-load \(task): \(error)")
    CurrentProcess.exit(1)
}
CurrentProcess.exit(0)
