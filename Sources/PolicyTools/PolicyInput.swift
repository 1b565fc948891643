import ArgumentParser
import LinuxSystem
import QrexecPolicy
import SystemPackage

/// Exit statuses of the tools that decide.
enum ToolStatus {
    static let allow: Int32 = 0
    static let deny: Int32 = 1
    static let unusablePolicy: Int32 = 2
    static let ask: Int32 = 3
    static let usage: Int32 = 64
}

/// Which policy and which qubes a tool looks at.
struct PolicyInput: ParsableArguments {
    @Option(
        name: .customLong("policy-dir"),
        help: ArgumentHelp(
            "Directory of policy files; may be repeated, the first hides equal names in the others.",
            valueName: "DIR"))
    var directories: [String] = []

    @Option(
        name: .customLong("system-info"),
        help: ArgumentHelp(
            "File with the qubes, as internal.GetSystemInfo answers; else qubesd is asked.",
            valueName: "FILE"))
    var systemInformation: String?

    @Option(
        name: .customLong("legacy-dir"),
        help: ArgumentHelp("Directory that !compat-4.0 reads.", valueName: "DIR"))
    var legacy = "/etc/qubes-rpc/policy"

    var policyDirectories: PolicyDirectories {
        directories.isEmpty
            ? PolicyDirectories(legacy: legacy)
            : PolicyDirectories(directories.map(absolutePath), legacy: legacy)
    }

    /// The files to change: of the last directory that is named, which the others hide, or of this
    /// machine or dom0.
    func access() throws -> PolicyAccess {
        directories.isEmpty ? PolicyAccess() : try PolicyAccess(policyDirectories)
    }

    /// Loads the policy; ends with status 2, telling all errors, when it cannot be used.
    func loadPolicy() throws -> Policy {
        let result = Policy.load(policyDirectories)
        guard result.isUsable else {
            for error in result.errors { Console.error(error.description) }
            throw ExitCode(ToolStatus.unusablePolicy)
        }
        return result.policy
    }

    func loadSystem() throws -> SystemInformation {
        do {
            return try SystemInformationSource.load(systemInformation)
        } catch {
            Console.error("\(error)")
            throw ExitCode(ToolStatus.unusablePolicy)
        }
    }

    func loadEngine() throws -> PolicyEngine {
        PolicyEngine(try loadPolicy(), try loadSystem())
    }
}

/// A path as seen from the root directory.
func absolutePath(_ path: String) -> String {
    if path.hasPrefix("/") { return path }
    return CurrentDirectory.path + "/" + path
}

/// Files that tools read; `-` is standard input.
enum InputFile {
    static let limit = 64 << 20

    static func read(_ path: String) throws(Errno) -> [UInt8] {
        if path == "-" { return try Descriptor.duplicate(of: 0).readAll(limit: limit) }
        return try Descriptor.open(path, 0).readAll(limit: limit)
    }
}

/// Where tools get the qubes from.
enum SystemInformationSource {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    static func load(_ file: String?) throws(Failure) -> SystemInformation {
        let bytes: [UInt8]
        do throws(Errno) {
            if let file {
                bytes = try InputFile.read(file)
            } else {
                bytes = try askQubesd()
            }
        } catch {
            let place = file ?? qubesdPath
            throw Failure(
                description: "\(place): \(error)"
                    + (file == nil ? "; give the qubes with --system-info FILE" : ""))
        }
        do throws(SystemInformationError) {
            return try SystemInformation.read(bytes)
        } catch {
            throw Failure(description: "\(file ?? qubesdPath): \(error)")
        }
    }

    static var qubesdPath: String {
        CurrentProcess.variable("QUBESD_INTERNAL_SOCKET") ?? "/var/run/qubesd.internal.sock"
    }

    private static func askQubesd() throws(Errno) -> [UInt8] {
        let socket = try UnixSocket.connect(qubesdPath)
        try socket.setNonblocking(false)
        try socket.writeAll(Array("internal.GetSystemInfo dom0 name dom0".utf8) + [0])
        UnixSocket.shutdown(socket.number, writing: true)
        let answer = try socket.readAll(limit: InputFile.limit)
        guard answer.count > 2, answer[0] == UInt8(ascii: "0"), answer[1] == 0 else {
            throw .ioError
        }
        return Array(answer[2...])
    }
}
