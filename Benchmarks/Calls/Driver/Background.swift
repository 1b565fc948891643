import Foundation
import LinuxSystem
import SystemPackage

struct Problem: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// A program of the host, with pipes to and from it; ended when it is let go.
final class Background {
    private let name: String
    private var child: ChildProcess?
    private var input: Descriptor?
    private let output: Descriptor

    /// - Parameters:
    ///   - user: whose it is; nil for this process's own.
    ///   - variables: replace those of this process of the same name.
    ///   - log: takes its standard error.
    init(
        _ command: [String], user: UserIdentity? = nil, variables: [String] = [],
        log: String? = nil
    ) throws {
        name = command.joined(separator: " ")
        let input = try Descriptor.pipe()
        let output = try Descriptor.pipe()
        let names = variables.map { $0.prefix { $0 != "=" } + "=" }
        var request = SpawnRequest(
            path: command[0], arguments: command,
            environment: CurrentProcess.environment.filter { entry in
                !names.contains { entry.hasPrefix($0) }
            } + variables)
        let errors = try Descriptor.open(
            log ?? "/dev/null", O_WRONLY | O_CREAT | O_APPEND, mode: 0o644)
        request.descriptors = [
            input.first.number, output.second.number, log == nil ? 2 : errors.number,
        ]
        request.user = user
        child = try ChildProcess.spawn(request)
        self.input = consume input.second
        self.output = consume output.first
    }

    /// Its output, when it has ended by itself with status 0.
    static func output(
        _ command: [String], user: UserIdentity? = nil, variables: [String] = []
    ) throws -> String {
        try Background(command, user: user, variables: variables).finish()
    }

    var pid: Int32 { child?.pid ?? 0 }

    /// Waits for its first line.
    func line() throws -> String {
        var text: [UInt8] = []
        var byte: [UInt8] = [0]
        while try output.read(into: &byte) == 1, byte[0] != 0x0A { text += byte }
        return String(decoding: text, as: UTF8.self)
    }

    /// Ends its input, and waits for its end.
    func finish() throws -> String {
        input = nil
        let text = try output.readAll(limit: 1 << 24)
        let status = try child.take()?.reap() ?? 0
        if status != 0 { throw Problem("'\(name)' ended with status \(status)") }
        return String(decoding: text, as: UTF8.self)
    }

    deinit {
        guard let running = child.take() else { return }
        running.signal(SIGTERM)
        _ = try? running.reap()
    }
}
