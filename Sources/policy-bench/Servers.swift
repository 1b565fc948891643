import Foundation
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// What runs in processes of its own beside the benchmark.
enum Servers {
    /// Answers each connection as fast as an event loop can, without deciding anything.
    static func echo(_ path: String) throws {
        let loop = try EventLoop()
        let listener = try UnixSocket.listen(path, mode: 0o600)
        let answer = [UInt8](repeating: UInt8(ascii: "a"), count: 160)
        var scratch = [UInt8](repeating: 0, count: 4096)
        func serve(_ number: Int32) -> Bool {
            let count = (try? UnixSocket.receive(number, into: &scratch)) ?? -1
            if count < 0 { return false }
            _ = try? UnixSocket.send(number, answer.span)
            return true
        }
        try loop.watch(listener.number, .readable) { _ in
            while let socket = try? UnixSocket.accept(listener) {
                let number = socket.release()
                if serve(number) {
                    _ = Descriptor(taking: number)
                    continue
                }
                try? loop.watch(number, .readable) { _ in
                    _ = serve(number)
                    loop.unwatch(number)
                    _ = Descriptor(taking: number)
                }
            }
        }
        try loop.run()
    }

    /// Plays qubesd: a connection for events that stays quiet, and system information.
    static func qubesd(_ directory: String, _ information: String) throws {
        let loop = try EventLoop()
        let events = try UnixSocket.listen(directory + "/qubesd.sock", mode: 0o600)
        let answers = try UnixSocket.listen(directory + "/qubesd.internal.sock", mode: 0o600)
        var open: [Int32] = []
        try loop.watch(events.number, .readable) { _ in
            guard let socket = try? UnixSocket.accept(events) else { return }
            let number = socket.release()
            _ = try? UnixSocket.send(number, Array("1\0\0connection-established\0\0".utf8).span)
            open.append(number)
        }
        try loop.watch(answers.number, .readable) { _ in
            guard let socket = try? UnixSocket.accept(answers) else { return }
            let number = socket.release()
            try? loop.watch(number, .readable) { _ in
                loop.unwatch(number)
                var scratch = [UInt8](repeating: 0, count: 4096)
                _ = try? UnixSocket.receive(number, into: &scratch)
                let socket = Descriptor(taking: number)
                try? socket.setNonblocking(false)
                try? socket.writeAll(Array(("0\0" + information).utf8))
            }
        }
        try loop.run()
    }
}

/// A process that ends with this one.
final class Helper {
    private let process = Process()

    init(_ path: String, _ arguments: [String], environment: [String: String] = [:]) throws {
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.standardError = FileHandle(forWritingAtPath: "/dev/null")
        try process.run()
    }

    var pid: Int32 { process.processIdentifier }

    deinit {
        process.terminate()
        process.waitUntilExit()
    }

    /// Resident memory in MB.
    var memory: Double {
        let text = (try? String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)) ?? ""
        for line in text.split(separator: "\n") where line.hasPrefix("VmRSS:") {
            return (Double(line.split(separator: " ")[1]) ?? 0) / 1024
        }
        return 0
    }
}
