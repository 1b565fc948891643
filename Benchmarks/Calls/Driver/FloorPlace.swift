import Foundation
import LinuxSystem

/// The programs of a call in plain C, running: gone when it is let go.
final class FloorPlace: CallPlace {
    let caller = "work"
    let target = "personal"
    /// The program is all of them.
    let client: String
    private let settings: Settings
    private let directory: String
    private var programs: Background?

    /// - Parameters:
    ///   - program: call-reference.
    ///   - logs: whether each of its programs writes a line a call.
    init(_ settings: Settings, program: String, logs: Bool) throws {
        self.settings = settings
        let name = program.split(separator: "/").last ?? ""
        directory =
            "\(settings.place)/calls-floor-\(CurrentProcess.id)-\(name)\(logs ? "-logs" : "")"
        client = "\(directory)/call-reference"
        let files = FileManager.default
        try files.createDirectory(atPath: directory, withIntermediateDirectories: false)
        try files.copyItem(atPath: program, toPath: client)
        if let user = settings.ordinaryUser {
            for path in [directory, client] {
                try files.setAttributes(
                    [.ownerAccountID: user.uid, .groupOwnerAccountID: user.gid], ofItemAtPath: path)
            }
        }
        let running = try Background(
            [client, "serve", directory, "/bin/true"] + (logs ? ["\(directory)/log"] : []),
            user: settings.ordinaryUser)
        programs = running
        guard try running.line() == "ready" else {
            throw Problem("'\(program)' does not start")
        }
    }

    deinit {
        try? end()
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// Ends the programs.
    ///
    /// - Throws: when one of them had ended before.
    func end() throws {
        guard let running = programs else { return }
        programs = nil
        _ = try running.finish()
    }

    func load(_ arguments: [String]) throws -> [[String: Double]] {
        BenchLab.numbers(
            try Background.output(
                [settings.load] + arguments, user: settings.ordinaryUser,
                variables: [
                    "CALLS_CLIENT=\(client)", "CALLS_WORKER=\(client)",
                    "CALLS_AGENT=\(directory)/agent",
                ]))
    }

    func processes() throws -> LabProcesses { try LabProcesses(below: [programs?.pid ?? 0]) }

    func processCount() -> Double? { nil }
}
