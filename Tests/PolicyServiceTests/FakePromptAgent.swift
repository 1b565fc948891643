import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// Plays policy.Ask or policy.Notify: remembers what it is asked and answers as a test says.
final class FakePromptAgent {
    private let loop: EventLoop
    private let listener: Descriptor
    private let path: String
    private var connections: [Int32: [UInt8]] = [:]
    /// Descriptor and JSON of each call.
    private(set) var calls: [(descriptor: String, payload: JSONValue)] = []
    private(set) var gone = 0
    private var held: Int32 = -1
    /// What is answered; nil keeps the caller waiting.
    var answer: String?

    init(_ loop: EventLoop, _ path: String, answer: String?) throws {
        self.loop = loop
        self.path = path
        self.answer = answer
        listener = try UnixSocket.listen(path, mode: 0o600)
        try loop.watch(listener.number, .readable) { [unowned self] _ in self.accept() }
    }

    deinit {
        loop.unwatch(listener.number)
        for number in connections.keys { close(number) }
    }

    private func close(_ number: Int32) {
        loop.unwatch(number)
        _ = Descriptor(taking: number)
    }

    /// Answers the call that was kept waiting last.
    func answerHeld(_ answer: String) throws {
        _ = try UnixSocket.send(held, Array(answer.utf8).span)
        connections[held] = nil
        close(held)
    }

    private func accept() {
        guard let number = try? UnixSocket.accept(listener).release() else { return }
        connections[number] = []
        try? loop.watch(number, .readable) { [unowned self] readiness in
            self.read(number, readiness)
        }
    }

    private func read(_ number: Int32, _ readiness: Readiness) {
        var buffer = [UInt8](repeating: 0, count: 8192)
        let count = (try? UnixSocket.receive(number, into: &buffer)) ?? 0
        connections[number, default: []] += buffer[..<count]
        if count > 0 { return }
        if readiness.contains(.hangup) {
            gone += 1
            connections[number] = nil
            return close(number)
        }
        let parts = connections[number]!.split(separator: 0, maxSplits: 1)
        guard parts.count == 2, let json = try? JSONReader.read(Array(parts[1])) else { return }
        calls.append((String(decoding: parts[0], as: UTF8.self), json))
        loop.setInterest(number, [])
        guard let answer else {
            held = number
            return
        }
        _ = try? UnixSocket.send(number, Array(answer.utf8).span)
        connections[number] = nil
        close(number)
    }
}
