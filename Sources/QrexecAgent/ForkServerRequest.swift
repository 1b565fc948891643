import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// What an agent tells a fork server (section 9): `{i32 type, i32 domain, i32 port, u32 length}` and
/// the command without its user part, with a NUL.
struct ForkServerRequest: Equatable {
    static let headerSize = 16
    /// Of the command with its NUL; what a control message can carry.
    static let maximumCommand = Limits.localBody - ConnectParameters.size

    var type: MessageType
    var connect: ConnectParameters
    /// Without the NUL.
    var command: [UInt8]

    var bytes: [UInt8] {
        little(type.rawValue) + connect.body + little(UInt32(command.count + 1)) + command + [0]
    }

    private func little(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * UInt32($0))) }
    }

    init(type: MessageType, connect: ConnectParameters, command: [UInt8]) {
        self.type = type
        self.connect = connect
        self.command = command
    }

    /// How many bytes a request has that begins with these; nil while its header is not complete.
    static func size(_ bytes: [UInt8]) throws(ProtocolError) -> Int? {
        guard bytes.count >= headerSize else { return nil }
        let length = Int(word(bytes, 3))
        guard (1...maximumCommand).contains(length) else {
            throw .tooLong(length: length, limit: maximumCommand)
        }
        return headerSize + length
    }

    /// Takes a whole request apart.
    init(bytes: [UInt8]) throws(ProtocolError) {
        guard let size = try Self.size(bytes), size == bytes.count else {
            throw .badText(field: "request", reason: "is cut")
        }
        guard let type = MessageType(rawValue: Self.word(bytes, 0)) else {
            throw .unknownType(Self.word(bytes, 0))
        }
        guard type == .execCommandLine || type == .justExec else {
            throw .unexpectedType(type, state: "at a fork server")
        }
        self.type = type
        connect = ConnectParameters(domain: Self.word(bytes, 1), port: Self.word(bytes, 2))
        guard bytes.last == 0, !bytes[Self.headerSize...].dropLast().contains(0) else {
            throw .badText(field: "command", reason: "has no NUL at its end, or one inside")
        }
        command = Array(bytes[Self.headerSize...].dropLast())
    }

    private static func word(_ bytes: [UInt8], _ index: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 | UInt32(bytes[4 * index + $1]) << (8 * UInt32($1)) }
    }
}

/// A call that a user's fork server runs: the connection ends when the call does.
final class ForkServerCall {
    private let loop: EventLoop
    private var connection: Descriptor?
    private var unsent: [UInt8]
    private let onEnd: () -> Void

    /// Hands a call over.
    ///
    /// - Parameters:
    ///   - owner: the user number that the server must have, if it is not root's.
    ///   - onEnd: the call is over. Not called after a throw.
    /// - Throws: `ENOENT`, `ECONNREFUSED`: no such server; `EPERM`: it is somebody else's.
    init(
        loop: EventLoop, socket path: String, owner: UInt32?, request: ForkServerRequest,
        onEnd: @escaping () -> Void
    ) throws(Errno) {
        self.loop = loop
        self.onEnd = onEnd
        unsent = request.bytes
        let connection = try UnixSocket.connect(path)
        let peer = try UnixSocket.peer(of: connection)
        guard peer.uid == owner || peer.uid == 0 || peer.uid == CurrentProcess.effectiveUser
        else {
            throw .notPermitted
        }
        let number = connection.number
        self.connection = consume connection
        try loop.watch(number, [.readable, .writable]) { [unowned self] in self.ready($0) }
    }

    private func ready(_ readiness: Readiness) {
        guard let number = connection?.number else { return }
        do throws(Errno) {
            while !unsent.isEmpty {
                unsent.removeFirst(try UnixSocket.send(number, unsent.span))
            }
            loop.setInterest(number, .readable)
        } catch .resourceTemporarilyUnavailable {
        } catch {
            return close()
        }
        guard readiness.contains(.readable) || readiness.contains(.hangup) else { return }
        var byte: [UInt8] = [0]
        do throws(Errno) {
            // The server has nothing to say; that it closes is the end of the call.
            if try UnixSocket.receive(number, into: &byte) == 0 { close() }
        } catch .resourceTemporarilyUnavailable {
        } catch {
            close()
        }
    }

    private func close() {
        guard let taken = connection.take() else { return }
        loop.unwatch(taken.number)
        onEnd()
    }
}
