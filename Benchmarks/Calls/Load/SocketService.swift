import LinuxSystem
import QrexecRuntime
import SystemPackage

/// A long-lived service on a socket: bench.Socket answers and closes, bench.Hold answers and waits
/// for the caller's end.
final class SocketService {
    private final class Connection {
        let socket: Descriptor
        var header: [UInt8] = []
        var isAnswered = false

        init(_ socket: consuming Descriptor) { self.socket = consume socket }
    }

    private let listener: Descriptor
    private var epoll: Epoll
    private var connections: [Int32: Connection] = [:]
    private var chunk = [UInt8](repeating: 0, count: 1024)

    init(path: String) throws(Errno) {
        listener = try UnixSocket.listen(path, mode: 0o666)
        epoll = try Epoll()
        try epoll.add(listener.number, .readable, tag: UInt64(listener.number))
    }

    func run() throws(Errno) {
        while true {
            let ready = try epoll.wait(milliseconds: -1)
            for event in 0..<ready {
                let number = Int32(epoll.event(event).tag)
                if number == listener.number { try accept() } else { try serve(number) }
            }
        }
    }

    private func accept() throws(Errno) {
        do throws(Errno) {
            let connection = Connection(try UnixSocket.accept(listener))
            let number = connection.socket.number
            // The header mostly is there already.
            if try serve(connection) { return }
            connections[number] = connection
            try epoll.add(number, .readable, tag: UInt64(number))
        } catch {
            if error != .resourceTemporarilyUnavailable { throw error }
        }
    }

    private func serve(_ number: Int32) throws(Errno) {
        guard let connection = connections[number], try serve(connection) else { return }
        try epoll.remove(number)
        connections[number] = nil
    }

    /// - Returns: whether the connection is over.
    private func serve(_ connection: Connection) throws(Errno) -> Bool {
        var count = 0
        do throws(Errno) {
            count = try UnixSocket.receive(connection.socket.number, into: &chunk)
        } catch .resourceTemporarilyUnavailable {
            return false
        } catch {}
        var isOver = count == 0
        connection.header += chunk[..<count]
        if !connection.isAnswered, connection.header.contains(0) {
            connection.isAnswered = true
            try connection.socket.writeAll(Array("ok\n".utf8))
            isOver = isOver || !connection.header.starts(with: "bench.Hold".utf8)
        }
        return isOver
    }
}
