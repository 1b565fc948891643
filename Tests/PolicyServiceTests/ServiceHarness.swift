import Foundation
import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage
import Testing

@testable import QrexecDom0

/// A policy service with its directories, a qubesd that the test plays, and clients, all on one
/// event loop and in one temporary directory that goes away with it.
final class ServiceHarness {
    let loop: EventLoop
    let root: String
    let qubesd: FakeQubesd
    private(set) var authority: PolicyAuthority!
    private(set) var server: RequestServer!
    private let logFile: Descriptor

    init(policy: [String: String], qubesdAnswers: Bool = true) throws {
        loop = try EventLoop()
        root = NSTemporaryDirectory() + "policy-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(
            atPath: root + "/policy.d", withIntermediateDirectories: true)
        logFile = try Descriptor.open(root + "/log", O_WRONLY | O_CREAT | O_APPEND, mode: 0o600)
        qubesd = try FakeQubesd(loop, directory: root)
        for (name, text) in policy { write(name, text) }
        var log = Log(program: "test")
        log.descriptor = logFile.number
        var paths = PolicyAuthority.Paths()
        paths.qubesd = root + "/qubesd.sock"
        paths.qubesdInternal = root + "/qubesd.internal.sock"
        paths.status = root + "/status"
        paths.services = [root]
        paths.client = "/bin/cat"
        authority = try PolicyAuthority(
            loop, PolicyDirectories([root + "/policy.d"]), log: log, paths: paths)
        server = try PolicyServer.forDaemons(
            authority, loop, path: root + "/policy.sock", log: log)
        if qubesdAnswers { try run(until: { self.qubesd.fetches >= 2 }) }
    }

    deinit {
        server = nil
        authority = nil
        try? FileManager.default.removeItem(atPath: root)
    }

    func write(_ name: String, _ text: String) {
        try! text.write(toFile: root + "/policy.d/" + name, atomically: false, encoding: .utf8)
    }

    func remove(_ name: String) {
        try! FileManager.default.removeItem(atPath: root + "/policy.d/" + name)
    }

    var log: String { (try? String(contentsOfFile: root + "/log", encoding: .utf8)) ?? "" }

    /// Runs the loop until something holds, at most ten seconds.
    func run(until condition: @escaping () -> Bool) throws {
        let end = CurrentProcess.now + seconds(10)
        func look() {
            if condition() || CurrentProcess.now > end {
                loop.stop()
            } else {
                loop.schedule(after: milliseconds(1), look)
            }
        }
        look()
        if !condition() { try loop.run() }
        try #require(condition(), "waited for ten seconds")
    }

    /// Sends bytes to the service and returns its whole answer.
    func exchange(_ request: String, finish: Bool = false) throws -> String {
        let client = try Client(loop, root + "/policy.sock", request, finish: finish)
        try run(until: { client.isDone })
        return String(decoding: client.answer, as: UTF8.self)
    }

    func call(_ source: String, _ target: String, _ service: String) throws -> [String: String] {
        let text = try exchange(
            "source=\(source)\nintended_target=\(target)\nservice_and_arg=\(service)\n\n")
        var map: [String: String] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            map[String(parts[0])] = String(parts[1])
        }
        return map
    }
}

/// One connection to the service.
final class Client {
    private let loop: EventLoop
    private let socket: Descriptor
    private(set) var answer: [UInt8] = []
    private(set) var isDone = false

    init(_ loop: EventLoop, _ path: String, _ request: String, finish: Bool = false) throws {
        self.loop = loop
        socket = try UnixSocket.connect(path)
        _ = try UnixSocket.send(socket.number, Array(request.utf8).span)
        if finish { UnixSocket.shutdown(socket.number, writing: true) }
        try loop.watch(socket.number, .readable) { [unowned self] _ in self.read() }
    }

    func send(_ text: String) throws {
        _ = try UnixSocket.send(socket.number, Array(text.utf8).span)
    }

    deinit { loop.unwatch(socket.number) }

    private func read() {
        var buffer = [UInt8](repeating: 0, count: 8192)
        let count = (try? UnixSocket.receive(socket.number, into: &buffer)) ?? 0
        answer += buffer[..<count]
        if count == 0 {
            isDone = true
            loop.unwatch(socket.number)
        }
    }
}

/// Answers system information and sends events as a test tells it to.
final class FakeQubesd {
    private let loop: EventLoop
    private var events: Descriptor?
    private var eventsNumber: Int32 = -1
    private let listener: Descriptor
    private let internalListener: Descriptor
    /// What internal.GetSystemInfo answers.
    var information = FakeQubesd.standard
    /// Whether requests are answered.
    var isAnswering = true
    private(set) var fetches = 0
    /// Called before a request is answered.
    var onFetch: () -> Void = {}
    private var held: [Int32] = []

    init(_ loop: EventLoop, directory: String) throws {
        self.loop = loop
        listener = try UnixSocket.listen(directory + "/qubesd.sock", mode: 0o600)
        internalListener = try UnixSocket.listen(directory + "/qubesd.internal.sock", mode: 0o600)
        try loop.watch(listener.number, .readable) { [unowned self] _ in self.acceptEvents() }
        try loop.watch(internalListener.number, .readable) { [unowned self] _ in self.answer() }
    }

    deinit {
        loop.unwatch(listener.number)
        loop.unwatch(internalListener.number)
        for number in held { _ = Glibc.close(number) }
    }

    private func acceptEvents() {
        guard let socket = try? UnixSocket.accept(listener) else { return }
        let number = socket.number
        events = consume socket
        eventsNumber = number
        _ = try? UnixSocket.send(
            number, Array("1\0\0connection-established\0\0".utf8).span)
    }

    func send(_ event: String, subject: String) {
        guard eventsNumber >= 0 else { return }
        _ = try? UnixSocket.send(
            eventsNumber, Array("\(subject)\0\(event)\0key\0value\0\0".utf8).span)
    }

    /// Ends the connection for events.
    func drop() {
        events = nil
        eventsNumber = -1
    }

    private func answer() {
        guard let socket = try? UnixSocket.accept(internalListener) else { return }
        let number = socket.release()
        try? loop.watch(number, .readable) { [unowned self] _ in
            var request = [UInt8](repeating: 0, count: 4096)
            _ = try? UnixSocket.receive(number, into: &request)
            self.loop.unwatch(number)
            self.fetches += 1
            self.onFetch()
            self.held.append(number)
            if self.isAnswering { self.answerHeld() }
        }
    }

    /// Answers the requests that were kept waiting.
    func answerHeld() {
        isAnswering = true
        for number in held {
            _ = try? UnixSocket.send(number, Array(("0\0" + information).utf8).span)
            _ = Glibc.close(number)
        }
        held = []
    }

    static func qube(
        _ name: String, _ number: Int, type: String = "AppVM", more: String = ""
    ) -> String {
        """
        "\(name)": {"type": "\(type)", "tags": ["t\(number)"], "template_for_dispvms": false,
        "default_dispvm": null, "icon": "appvm-red", "guivm": "dom0", "power_state": "Running",
        "uuid": "00000000-0000-0000-0000-00000000000\(number)", "internal": null\(more)}
        """
    }

    static let standard = system(["work": 1, "vault": 2, "personal": 3])

    static func system(_ qubes: [String: Int]) -> String {
        let entries = ["dom0": 0].merging(qubes) { $1 }.map {
            qube($0.key, $0.value, type: $0.key == "dom0" ? "AdminVM" : "AppVM")
        }
        return "{\"domains\": {" + entries.joined(separator: ",") + "}}"
    }
}
