import Foundation
import Glibc
import LinuxSystem
import Testing

extension Dom0Programs {
    /// What the dispatcher gives to a daemon that the starter has bound to its qube: the test plays
    /// both, and a daemon that its qube has taken over.
    @Suite struct ConfinedDaemons {
        let scene: Scene
        private let policy: Running

        init() throws {
            scene = try Scene()
            let directory = scene.directory
            mkdir("\(directory)/policy", 0o755)
            policy = try scene.start(
                "qrexec-policy-daemon",
                [
                    "--policy-path=\(directory)/policy", "--socket-path=\(directory)/policy.sock",
                    "--dispatcher-socket=\(directory)/dispatcher",
                    "--eval-socket-path=\(directory)/eval", "--gui-socket-path=\(directory)/gui",
                ])
            try eventually("it listens") { access("\(directory)/dispatcher", F_OK) == 0 }
        }

        /// The line of a daemon that was registered.
        private func register(_ fields: [String], descriptors: Int = 2) throws -> Line {
            let connection = try UnixSocket.connect(
                "\(scene.directory)/dispatcher", .sequencedPacket)
            let pair = try UnixSocket.pair(.sequencedPacket)
            let text = (["register"] + fields).joined(separator: "\n")
            let numbers = Array([pair.second.number, 2, 2].prefix(descriptors))
            _ = try UnixSocket.send(
                connection, Array(text.utf8), descriptors: numbers, wait: true)
            return Line(pair.first)
        }

        private func register(_ domain: UInt32, _ name: String) throws -> Line {
            try register(["domain=\(domain)", "name=\(name)", "socket-dir=\(scene.directory)"])
        }

        private var log: String { String(decoding: policy.errors.rest(), as: UTF8.self) }

        @Test func itGetsTheChannelsOfItsQubeAndNoOthers() throws {
            let own = try scene.vchan(server: 42, 513)
            let others = try scene.vchan(server: 43, 513)
            let line = try register(42, "work")
            try line.send("channel\nid=7\nport=513")
            let (answer, descriptors) = try line.receive()
            #expect(answer.split(separator: "\n").first == "channel")
            #expect(answer.contains("\nid=7") && answer.contains("\ntransport=socket"))
            #expect(descriptors.count == 1)
            let end = Peer(Descriptor(taking: try #require(descriptors.first)))
            try end.send([1, 2, 3])
            #expect(try own.accept().receive(3) == [1, 2, 3])
            #expect(throws: Failure.self) { try others.accept(milliseconds: 200) }
        }

        @Test func aQubesOfferIsWaitedFor() throws {
            let line = try register(42, "work")
            try line.send("channel\nid=1\nport=512")
            #expect(line.isQuiet)
            let agent = try scene.controlListener()
            #expect(try line.receive().descriptors.count == 1)
            _ = try agent.accept()
        }

        static let forbidden = [
            "channel\nid=1\nport=511", "channel\nid=1\nport=1", "channel\nid=1\nport=769",
            "channel\nid=1\nport=-512", "channel\nid=1\nport=4294967808",
            "channel\nid=1\nport=513\ndomain=43", "channel\nid=1\nport=513\npath=/dev/xen/evtchn",
            "channel\nport=513", "channel\nid=1", "channel\nid=1\nport=513\nport=514",
            "open\npath=/dev/xen/xenbus", "read\npath=/local/domain/43/data/vchan/0/512/ring-ref",
            "register\ndomain=43\nname=vault\nsocket-dir=/tmp", "listen\nsocket-dir=/tmp",
            "call\nid=1\ntarget=vault\nservice=a\nsource=dom0", "\u{0}", "",
            "channel\nid=1\nport=513\u{7F}", String(repeating: "channel\n", count: 13),
        ]

        @Test(arguments: forbidden)
        func whatItMayNotAskForEndsItWithALineInTheLog(_ message: String) throws {
            let listener = try scene.vchan(server: 43, 513)
            let line = try register(42, "work")
            try line.send(message)
            #expect(try line.isClosed())
            try eventually("a line in the log") {
                log.contains("a daemon is gone") && log.contains("qube=work")
            }
            #expect(throws: Failure.self) { try listener.accept(milliseconds: 100) }
            // Others have nothing of it.
            let other = try register(43, "vault")
            try other.send("channel\nid=1\nport=513")
            #expect(try other.receive().descriptors.count == 1)
        }

        @Test func noMessageIsLongerThanTheLongestRequest() throws {
            let line = try register(42, "work")
            try line.send("call\nid=1\nservice=" + String(repeating: "a", count: 70_000))
            #expect(try line.isClosed())
        }

        @Test func itHandsNothingOver() throws {
            let line = try register(42, "work")
            try line.send("unlisten", descriptors: [2])
            #expect(try line.isClosed())
        }

        static let registrations: [[String]] = [
            ["domain=0", "name=work", "socket-dir=/tmp"], ["name=work", "socket-dir=/tmp"],
            ["domain=32752", "name=work", "socket-dir=/tmp"],
            ["domain=42", "name=wo/rk", "socket-dir=/tmp"], ["domain=42", "socket-dir=/tmp"],
            ["domain=42", "name=work"], ["domain=42", "name=work", "socket-dir=/tmp", "user=0"],
        ]

        @Test(arguments: registrations)
        func whatIsNoRegistrationBindsNobody(_ fields: [String]) throws {
            let line = try register(fields)
            #expect(try line.isClosed())
            try eventually("a line in the log") { log.contains("registration failed") }
            #expect(!log.contains("is bound to its qube"))
        }

        @Test(arguments: [0, 1, 3])
        func aRegistrationComesWithLineAndLog(_ descriptors: Int) throws {
            let line = try register(
                ["domain=42", "name=work", "socket-dir=/tmp"], descriptors: descriptors)
            #expect(try line.isClosed())
            try eventually("a line in the log") { log.contains("registration failed") }
        }
    }
}

/// The daemon's end of the line to the dispatcher.
private final class Line {
    private let socket: Descriptor

    init(_ socket: consuming Descriptor) {
        self.socket = socket
        try? self.socket.setNonblocking(false)
        var limit = timeval(tv_sec: Peer.patience, tv_usec: 0)
        setsockopt(
            self.socket.number, SOL_SOCKET, SO_RCVTIMEO, &limit,
            socklen_t(MemoryLayout<timeval>.size))
    }

    func send(_ text: String, descriptors: [Int32] = []) throws {
        _ = try UnixSocket.send(
            socket, Array(text.utf8), descriptors: descriptors, wait: true)
    }

    func receive() throws -> (text: String, descriptors: [Int32]) {
        var list = DescriptorList()
        let bytes = try UnixSocket.receive(
            socket, limit: 70_000, maximumDescriptors: 4, wait: true, descriptors: &list)
        guard !bytes.isEmpty else { throw Failure("the line is closed") }
        var numbers: [Int32] = []
        while let next = list.takeFirst() { numbers.append(next.release()) }
        return (String(decoding: bytes, as: UTF8.self), numbers)
    }

    /// Whether the dispatcher closes it, and says nothing before.
    func isClosed() throws -> Bool {
        var byte: UInt8 = 0
        let got = recv(socket.number, &byte, 1, 0)
        return got == 0 || got < 0 && errno == ECONNRESET
    }

    var isQuiet: Bool {
        var entry = pollfd(fd: socket.number, events: Int16(POLLIN), revents: 0)
        return poll(&entry, 1, 150) == 0
    }
}
