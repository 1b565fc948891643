import Glibc
import LinuxSystem
import SystemPackage

/// One connection to xenstored and its messages (protocol 2).
///
/// Not libxenstore: its archive, which static programs link, keeps news that arrive during a request
/// to itself until the next message comes, and tells nobody.
struct XenStoreWire: ~Copyable {
    enum Request: UInt32 {
        case directory = 1
        case read = 2
        case watch = 4
        case unwatch = 5
        case transactionStart = 6
        case transactionEnd = 7
        case write = 11
        case remove = 13
        case setPermissions = 14
        case isDomainIntroduced = 17
    }

    private static let watchEvent: UInt32 = 15
    private static let error: UInt32 = 16
    private static let headerSize = 16
    /// The longest payload of either side.
    private static let limit = 4096

    private let descriptor: Descriptor
    private var lastRequest: UInt32 = 0
    /// Tokens of watches that fired during requests.
    private var news: [String] = []

    /// Dom0's xenstored listens on a socket; other domains have a device of their kernel's.
    static let socketPath = "/run/xenstored/socket"
    static let devicePath = "/dev/xen/xenbus"

    private init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }

    static func open() throws(VchanError) -> XenStoreWire {
        do throws(Errno) {
            let socket = try UnixSocket.connect(socketPath, .stream)
            try socket.setNonblocking(false)
            return XenStoreWire(socket)
        } catch {
            // Not dom0, or one whose store runs elsewhere.
        }
        do throws(Errno) { return XenStoreWire(try .open(devicePath, O_RDWR)) } catch {
            throw .opening(
                "\(devicePath) (or, in dom0, \(socketPath))",
                module: "xenfs; in dom0 start xenstored", error)
        }
    }

    var number: Int32 { descriptor.number }

    /// - Parameter payload: parts that follow each other; an end-of-string is not added.
    mutating func ask(
        _ request: Request, transaction: UInt32 = 0, _ payload: String
    ) throws(Errno) -> [UInt8] {
        lastRequest &+= 1
        let bytes = Array(payload.utf8)
        guard bytes.count <= Self.limit else { throw .argListTooLong }
        var message: [UInt8] = []
        for word in [request.rawValue, lastRequest, transaction, UInt32(bytes.count)] {
            for shift in stride(from: 0, to: 32, by: 8) {
                message.append(UInt8(truncatingIfNeeded: word >> UInt32(shift)))
            }
        }
        // In one piece: the device takes no second one of another message in between.
        try descriptor.writeAll(message + bytes)
        while true {
            let (type, number, answer) = try receive()
            if type == Self.watchEvent {
                keep(answer)
            } else if number == lastRequest {
                if type == Self.error { throw Self.error(named: answer) }
                return answer
            }
        }
    }

    /// The tokens of watches that have fired; never waits for more than the rest of a message.
    mutating func takeNews() throws(Errno) -> [String] {
        while try !poll(descriptor.number, .readable, milliseconds: 0).isEmpty {
            let (type, _, payload) = try receive()
            if type == Self.watchEvent { keep(payload) }
        }
        defer { news = [] }
        return news
    }

    var hasNews: Bool { !news.isEmpty }

    private mutating func keep(_ event: [UInt8]) {
        let parts = event.split(separator: 0, omittingEmptySubsequences: false)
        guard parts.count >= 2 else { return }
        let token = String(decoding: parts[1], as: UTF8.self)
        // Once is enough: who is told looks at everything.
        if !news.contains(token) { news.append(token) }
    }

    private func receive() throws(Errno) -> (type: UInt32, request: UInt32, payload: [UInt8]) {
        let header = try read(Self.headerSize)
        func word(_ index: Int) -> UInt32 {
            (0..<4).reduce(0) { $0 | UInt32(header[4 * index + $1]) << UInt32(8 * $1) }
        }
        guard word(3) <= Self.limit else { throw .ioError }
        return (word(0), word(1), try read(Int(word(3))))
    }

    private func read(_ count: Int) throws(Errno) -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            var piece = [UInt8](repeating: 0, count: count - bytes.count)
            let got = try descriptor.read(into: &piece)
            if got == 0 { throw .connectionReset }
            bytes += piece[..<got]
        }
        return bytes
    }

    private static func error(named name: [UInt8]) -> Errno {
        switch String(decoding: name.prefix { $0 != 0 }, as: UTF8.self) {
        case "ENOENT": .noSuchFileOrDirectory
        case "EACCES": .permissionDenied
        case "EPERM": .notPermitted
        case "EEXIST": .fileExists
        case "EAGAIN": .resourceTemporarilyUnavailable
        case "EBUSY": .resourceBusy
        case "ENOSPC": .noSpace
        case "EQUOTA": .diskQuotaExceeded
        case "E2BIG": .argListTooLong
        case "ENOMEM": .noMemory
        case "EINVAL": .invalidArgument
        default: .ioError
        }
    }
}
