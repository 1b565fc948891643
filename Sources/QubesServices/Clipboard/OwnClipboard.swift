import Glibc
import LinuxSystem
import SystemPackage

/// The clipboard of the machine that this runs on, as its programs know it: the selection of a
/// Wayland or X11 display, by the programs made for that, or a file where there is no display.
enum OwnClipboard: Equatable {
    case wayland(environment: [String])
    case x11(environment: [String])
    case file(path: String)

    /// The file's name in the home directory.
    static let fileName = ".qubes-clipboard"
    /// Nanoseconds for a program that does not answer: the owner of the selection may hang.
    private static let patience: UInt64 = 5_000_000_000

    // MARK: Finding it

    /// The display of this session, else one that is found running, else the file.
    static var present: OwnClipboard {
        if let name = CurrentProcess.variable("WAYLAND_DISPLAY"), !name.isEmpty,
            Programs.find("wl-copy") != nil || CurrentProcess.variable("DISPLAY") == nil
        {
            return .wayland(environment: [])
        }
        if let name = CurrentProcess.variable("DISPLAY"), !name.isEmpty {
            return .x11(environment: [])
        }
        let home = CurrentProcess.variable("HOME") ?? "/"
        return running(
            runtime: CurrentProcess.variable("XDG_RUNTIME_DIR")
                ?? "/run/user/\(CurrentProcess.effectiveUser)",
            sockets: "/tmp/.X11-unix") ?? .file(path: "\(home)/\(fileName)")
    }

    /// A display that answers: services do not always inherit the session's environment.
    static func running(runtime: String, sockets: String) -> OwnClipboard? {
        if let name = answering(in: runtime, prefix: "wayland-") {
            return .wayland(
                environment: ["XDG_RUNTIME_DIR=\(runtime)", "WAYLAND_DISPLAY=\(name)"])
        }
        guard let name = answering(in: sockets, prefix: "X") else { return nil }
        return .x11(environment: ["DISPLAY=:\(name.dropFirst())"])
    }

    private static func answering(in directory: String, prefix: String) -> String? {
        let names = (try? Directory.names(in: directory, limit: 10_000)) ?? []
        return names.filter { name in
            let number = name.dropFirst(prefix.count)
            return name.hasPrefix(prefix) && (1...4).contains(number.utf8.count)
                && number.utf8.allSatisfy { (0x30...0x39).contains($0) }
        }.sorted { ($0.count, $0) < ($1.count, $1) }.first {
            // One that was left behind refuses.
            (try? UnixSocket.connect("\(directory)/\($0)")) != nil
        }
    }

    // MARK: Reading and setting

    /// The text in it; empty when there is none.
    ///
    /// - Parameter limit: more is cut off behind one byte more, which shows that there was more.
    func read(limit: Int) throws(FileProblem) -> [UInt8] {
        switch self {
        case .wayland(let environment):
            let type = "text/plain;charset=utf-8"
            let program = try Self.program("wl-paste", from: "wl-clipboard")
            return try Self.output(
                [program, "--no-newline", "--type", type], environment, limit: limit) ?? []
        case .x11(let environment):
            let program = try Self.program("xclip", from: "xclip")
            // Old programs offer only the second.
            for target in ["UTF8_STRING", "STRING"] {
                let command = [program, "-selection", "clipboard", "-o", "-target", target]
                if let text = try Self.output(command, environment, limit: limit) { return text }
            }
            return []
        case .file(let path):
            do throws(Errno) {
                let flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY
                let file = try Descriptor.open(path, flags)
                var buffer = [UInt8](repeating: 0, count: limit + 1)
                var filled = 0
                while filled < buffer.count {
                    let got = try file.read(
                        into: &buffer, at: filled, count: buffer.count - filled)
                    if got == 0 { break }
                    filled += got
                }
                return Array(buffer[..<filled])
            } catch .noSuchFileOrDirectory {
                return []
            } catch {
                throw FileProblem(Array(path.utf8), error)
            }
        }
    }

    /// Replaces what is in it.
    func set(_ text: [UInt8]) throws(FileProblem) {
        switch self {
        case .wayland(let environment):
            let type = "text/plain;charset=utf-8"
            let program = try Self.program("wl-copy", from: "wl-clipboard")
            try Self.feed(text, to: [program, "--type", type], environment)
        case .x11(let environment):
            let program = try Self.program("xclip", from: "xclip")
            try Self.feed(text, to: [program, "-selection", "clipboard", "-i"], environment)
        case .file(let path):
            do throws(Errno) {
                try FileChange.replace(path, with: text, mode: 0o600)
            } catch {
                throw FileProblem(Array(path.utf8), error)
            }
        }
    }

    // MARK: Programs

    private static func program(
        _ name: String, from package: String
    ) throws(FileProblem) -> String {
        if let path = Programs.find(name) { return path }
        throw FileProblem(Array(name.utf8), "not found in PATH; install the package \(package)")
    }

    private static func request(_ command: [String], _ environment: [String]) -> SpawnRequest {
        let names = environment.map { $0.prefix { $0 != "=" } + "=" }
        let inherited = CurrentProcess.environment.filter { entry in
            !names.contains { entry.hasPrefix($0) }
        }
        return SpawnRequest(
            path: command[0], arguments: command, environment: inherited + environment)
    }

    /// What a program prints; nil when it fails, which it does when there is no text.
    private static func output(
        _ command: [String], _ environment: [String], limit: Int
    ) throws(FileProblem) -> [UInt8]? {
        do throws(Errno) {
            let null = try Descriptor.open("/dev/null", O_RDWR)
            var request = request(command, environment)
            let errors = try Descriptor.memoryFile(named: "errors")
            let result = try BoundedProgram.run(
                &request, input: null.number, errors: errors.number, limit: limit,
                deadline: CurrentProcess.now + patience)
            if result.status == 0 || result.output.count > limit { return result.output }
            // A part of a text is none, and one that does not come is not an empty one.
            if result.status == nil { throw Errno.timedOut }
            let text = try message(errors)
            if text.contains("open display") || text.contains("onnect to a") {
                throw Errno.connectionRefused
            }
            return nil
        } catch .timedOut {
            throw FileProblem(
                Array(command[0].utf8), "the program that has the text does not give it")
        } catch {
            throw FileProblem(Array(command[0].utf8), error)
        }
    }

    /// Gives a text to a program that keeps it in the background, where it serves the selection.
    private static func feed(
        _ text: [UInt8], to command: [String], _ environment: [String]
    ) throws(FileProblem) {
        let status: Int32?
        let said: String
        do throws(Errno) {
            let null = try Descriptor.open("/dev/null", O_RDWR)
            let input = try Descriptor.memoryFile(named: "clipboard")
            try input.writeAll(text)
            try input.seek(0, .start)
            // The one in the background would keep a pipe of ours open for ever.
            let errors = try Descriptor.memoryFile(named: "errors")
            var request = request(command, environment)
            request.descriptors = [input.number, null.number, errors.number]
            request.newSession = true
            status = try BoundedProgram.wait(
                for: ChildProcess.spawn(request), until: CurrentProcess.now + patience)
            said = try message(errors)
        } catch {
            throw FileProblem(Array(command[0].utf8), error)
        }
        guard status == 0 else {
            let reason = status == nil ? "it does not answer" : "it ended with status \(status!)"
            throw FileProblem(
                Array(command[0].utf8), said.isEmpty ? reason : "\(reason): \(said)")
        }
    }

    private static func message(_ errors: borrowing Descriptor) throws(Errno) -> String {
        try errors.seek(0, .start)
        var buffer = [UInt8](repeating: 0, count: 300)
        let count = try errors.read(into: &buffer)
        return displayable(buffer[..<count].split(separator: 0x0A).first ?? [])
    }
}
