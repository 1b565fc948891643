import Glibc
import LinuxSystem
import SystemPackage

/// A daemon's local socket and the links that give it more names.
public struct DaemonSockets {
    /// The socket; it is there when the agent is connected.
    public let path: String
    private let target: String
    private let links: [String]

    /// - Parameter domain: the qube's domain number.
    public init(directory: String, domain: UInt32, name: String, uuid: String?) {
        target = "qrexec.\(domain)"
        path = "\(directory)/\(target)"
        var links = ["\(directory)/qrexec.\(name)"]
        if let uuid { links.append("\(directory)/qrexec.uuid:\(uuid)") }
        self.links = links
    }

    /// Listens. The socket is open to all: its directory is the guard.
    func open() throws(Errno) -> Descriptor {
        remove()
        let socket = try UnixSocket.listen(path, mode: 0o666)
        for link in links {
            // A daemon that was killed leaves its links; the qube has another number since.
            try FileStatus.remove(link)
            try FileStatus.makeLink(link, to: target)
        }
        return socket
    }

    func remove() {
        for link in links where FileStatus.linkText(link) == target {
            try? FileStatus.remove(link)
        }
        try? FileStatus.remove(path)
    }

    /// Removes all that has these names, of whatever daemon that runs no more: for a manager, which
    /// knows that there is no other.
    public func removeAll() {
        for name in links + [path] { try? FileStatus.remove(name) }
    }
}
