import Glibc
import LinuxSystem
import SystemPackage

/// A server's socket file, at which exactly one client is accepted; removed with the value.
struct LocalListener: ~Copyable {
    let socket: Descriptor
    private let path: String

    init(directory: String, client: DomainID, port: Port) throws(VchanError) {
        path = "\(directory)/\(port).sock"
        do throws(Errno) {
            socket = try Self.bind(path)
        } catch .addressInUse {
            throw .portInUse(client, port, path: path)
        } catch .noSuchFileOrDirectory {
            throw .unknownPeer(client, path: directory, .noSuchFileOrDirectory)
        } catch {
            throw .system(call: "listen on \(path)", error)
        }
    }

    // SAFETY: a C string that outlives the call.
    deinit { _ = unsafe unlink(path) }

    /// Closes it and removes its file.
    consuming func remove() {}

    private static func bind(_ path: String) throws(Errno) -> Descriptor {
        do throws(Errno) {
            return try UnixSocket.listen(path, .sequencedPacket, mode: 0o666, backlog: 1)
        } catch .addressInUse {
            guard isStale(path) else { throw .addressInUse }
            _ = unsafe unlink(path)
            return try UnixSocket.listen(path, .sequencedPacket, mode: 0o666, backlog: 1)
        }
    }

    /// Whether the file is left over from a server that is gone. A connection of another type is
    /// refused by a living server without taking the place of its client.
    private static func isStale(_ path: String) -> Bool {
        do throws(Errno) {
            _ = try UnixSocket.connect(path, .stream)
            return false
        } catch {
            return error == .connectionRefused || error == .noSuchFileOrDirectory
        }
    }

    /// The client's connection; nil while there is none.
    func accept() throws(VchanError) -> Descriptor? {
        do throws(Errno) {
            return try UnixSocket.accept(socket)
        } catch .resourceTemporarilyUnavailable {
            return nil
        } catch .connectionAbort {
            return nil
        } catch {
            throw .system(call: "accept on \(path)", error)
        }
    }
}
