import LinuxSystem
public import QrexecProtocol
import SystemPackage

/// Finds what serves a call (specification, section 10).
public struct ServiceLookup: Sendable {
    /// What serves a call.
    public enum Service: Sendable, Equatable {
        /// Run with the argument, when it is not empty, as its only argument.
        case executable(path: String)
        /// Connected to.
        case unixSocket(path: String)
        /// Connected to; numeric addresses only.
        case tcp(host: String, port: UInt16)
    }

    public enum Failure: Error, Sendable, Equatable, CustomStringConvertible {
        /// Status 127.
        case notFound
        /// Status 125.
        case unusable(path: String, reason: String)

        public var status: Int32 {
            switch self {
            case .notFound: CallStatus.notFound
            case .unusable: CallStatus.problem
            }
        }

        public var description: String {
            switch self {
            case .notFound: "no such service"
            case .unusable(let path, let reason): "\(path): \(reason)"
            }
        }
    }

    /// Directories, first match first.
    public var directories: [String]

    public static let defaultPath = "/run/qubes-rpc:/usr/local/etc/qubes-rpc:/etc/qubes-rpc"

    public init(path: String) {
        directories = path.split(separator: ":").map(String.init)
    }

    /// The path of QREXEC_SERVICE_PATH, or the default.
    public static var configured: ServiceLookup {
        ServiceLookup(path: CurrentProcess.variable("QREXEC_SERVICE_PATH") ?? defaultPath)
    }

    /// A file that was found for a call.
    struct File {
        let path: String
        /// The text of a link that means a TCP service.
        var tcpLink: String?
        /// What the path leads to; nil behind a TCP link, which leads to no file.
        var kind: PathStatus.Kind?
    }

    /// The file for a call: `service+argument` in any directory, else `service` in any.
    ///
    /// - Returns: nil when there is none.
    static func file(
        for call: ServiceCall, in directories: [String]
    ) throws(Failure) -> File? {
        let withArgument = "\(call.service)+\(call.argument ?? "")"
        for name in [withArgument, call.service] where name.utf8.count <= 255 {
            for directory in directories {
                let path = "\(directory)/\(name)"
                do throws(Errno) {
                    return try file(path)
                } catch .noSuchFileOrDirectory {
                    continue
                } catch {
                    throw .unusable(path: path, reason: error.description)
                }
            }
        }
        return nil
    }

    /// One call of the system for a file that is not there, as nearly all are.
    private static func file(_ path: String) throws(Errno) -> File {
        let own = try PathStatus(of: path).kind
        guard own == .link else { return File(path: path, kind: own) }
        // Before anything else: such a link leads to no file (section 10).
        if let text = FileStatus.linkText(path), text == "/dev/tcp" || text.hasPrefix("/dev/tcp/") {
            return File(path: path, tcpLink: text)
        }
        let kind: PathStatus.Kind =
            switch try FileStatus.kind(of: path) {
            case .regular: .regular
            case .directory: .directory
            case .socket: .socket
            case .other: .other
            }
        return File(path: path, kind: kind)
    }

    /// Finds what serves `call`.
    public func find(_ call: ServiceCall) throws(Failure) -> Service {
        guard let file = try Self.file(for: call, in: directories) else { throw .notFound }
        let path = file.path
        if let text = file.tcpLink {
            do throws(TCPEndpoint.Invalid) {
                let endpoint = try TCPEndpoint(link: text, argument: call.argument)
                return .tcp(host: endpoint.host, port: endpoint.port)
            } catch {
                throw .unusable(path: path, reason: error.reason)
            }
        }
        if file.kind == .socket { return .unixSocket(path: path) }
        guard file.kind == .regular, FileStatus.isExecutable(path) else {
            throw .unusable(path: path, reason: "neither executable nor a socket")
        }
        return .executable(path: path)
    }
}

/// The end of a TCP service: numeric host and port out of a link's text and the call's argument.
struct TCPEndpoint: Equatable {
    struct Invalid: Error { let reason: String }

    let host: String
    let port: UInt16

    /// - Parameter link: `/dev/tcp`, `/dev/tcp/HOST` or `/dev/tcp/HOST/PORT`.
    init(link: String, argument: String?) throws(Invalid) {
        let argument = argument ?? ""
        if link == "/dev/tcp" {
            guard let plus = argument.lastIndex(of: "+") else {
                throw Invalid(reason: "the argument must be HOST+PORT")
            }
            let text = argument[..<plus]
            if text.contains("_") { throw Invalid(reason: "the host has a forbidden character") }
            host = String(text.map { $0 == "+" ? ":" : $0 })
            port = try Self.port(argument[argument.index(after: plus)...])
        } else {
            let parts = link.dropFirst("/dev/tcp/".count)
                .split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            host = String(parts[0])
            if parts.count == 2 {
                guard argument.isEmpty else {
                    throw Invalid(reason: "the service takes no argument: its port is fixed")
                }
                port = try Self.port(parts[1])
            } else {
                port = try Self.port(argument[...])
            }
        }
        if host.isEmpty { throw Invalid(reason: "no host") }
    }

    private static func port(_ text: Substring) throws(Invalid) -> UInt16 {
        guard let first = text.utf8.first, (0x31...0x39).contains(first),
            text.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(text)
        else { throw Invalid(reason: "the port is no number from 1 to 65535") }
        return port
    }
}
