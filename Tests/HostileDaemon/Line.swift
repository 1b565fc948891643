import Glibc
import LinuxSystem
import SystemPackage

/// The line to the dispatcher, which the starter has made descriptor 3.
struct Line: ~Copyable {
    private let socket: Descriptor

    init(_ socket: consuming Descriptor) {
        self.socket = socket
        try? self.socket.setNonblocking(false)
    }

    /// As the starter does it, for a stand-in that nothing confines.
    init(registeredAs name: String, domain: String) throws {
        let connection = try UnixSocket.connect("/run/qubes/dispatcher.sock", .sequencedPacket)
        let pair = try UnixSocket.pair(.sequencedPacket)
        let words = "register\ndomain=\(domain)\nname=\(name)\nsocket-dir=/tmp"
        _ = try UnixSocket.send(
            connection, Array(words.utf8), descriptors: [pair.second.number, 2], wait: true)
        self.init(pair.first)
    }

    func send(_ text: String) {
        _ = try? UnixSocket.send(socket, Array(text.utf8), descriptors: [], wait: true)
    }

    /// The dispatcher's next message and its descriptors; nil when it has closed the line.
    func receive(_ descriptors: inout DescriptorList) -> String? {
        let bytes = try? UnixSocket.receive(
            socket, limit: 70_000, maximumDescriptors: 4, wait: true, descriptors: &descriptors)
        return bytes.flatMap { $0.isEmpty ? nil : String(decoding: $0, as: UTF8.self) }
    }

    func receive() -> String? {
        var descriptors = DescriptorList()
        return receive(&descriptors)
    }
}

func say(_ text: String) { try? Descriptor.writeAll(Array("hostile: \(text)\n".utf8), to: 2) }

/// Says what succeeded that must not.
func could(_ what: String, _ result: Int) { if result >= 0 { say("could \(what)") } }

@_silgen_name("syscall") func systemCall(
    _ number: Int, _ a: Int, _ b: Int, _ c: Int, _ d: Int, _ e: Int, _ f: Int
) -> Int
