import Glibc
import LinuxSystem
import QrexecRuntime

/// One call through this qube's agent, from the request to the exit status.
///
/// What the data channel needs is made while dom0 decides: that takes about as long as a decision.
final class AgentCall {
    private let agent: Descriptor
    private let loop: EventLoop
    private let log: Log
    private var answer = CallRequest.Answer()
    private var preparation: CallerSession.Preparation?
    private var session: CallerSession?
    private var result: Result<Int32?, any Error> = .success(nil)

    init(_ agent: consuming Descriptor, _ loop: EventLoop, _ log: Log) {
        self.agent = agent
        self.loop = loop
        self.log = log
    }

    /// Makes the call and waits for its end.
    ///
    /// - Returns: the exit status; nil for a call that was refused.
    func run(
        _ request: CallRequest, ringSize: Int, options: CallerSession.Options
    ) throws -> Int32? {
        try request.send(agent)
        // Before a stream is changed, so that no signal leaves it so.
        try loop.onSignals([SIGINT, SIGTERM, SIGHUP, SIGUSR1]) { [unowned self] in
            self.received($0)
        }
        preparation = try CallerSession.Preparation(ringSize: ringSize, options: options)
        try loop.watch(agent.number, .readable) { [unowned self] _ in
            if self.answer.isWhole { self.heardOfEnd() } else { self.hear(options) }
        }
        try loop.run()
        return try result.get()
    }

    private func received(_ signal: Int32) {
        if signal == SIGUSR1 {
            session?.useInputForOutput()
            return
        }
        restoreStreams()
        CurrentProcess.die(of: signal)
    }

    private func restoreStreams() {
        session?.restoreStreams()
        preparation = nil
    }

    private func end(_ result: Result<Int32?, any Error>) {
        self.result = result
        restoreStreams()
        loop.stop()
    }

    private func hear(_ options: CallerSession.Options) {
        do {
            guard try answer.read(agent) else { return }
            guard let place = try answer.place, let ready = preparation.take() else {
                return end(.success(nil))
            }
            session = try CallerSession.serving(
                place, ready, loop: loop, options: options, log: log
            ) { [unowned self] in self.end(.success($0)) }
        } catch {
            end(.failure(error))
        }
    }

    // MARK: The agent during the call

    private func heardOfEnd() {
        let process = (try? UnixSocket.peer(of: agent))?.pid ?? 0
        var word = CallRequest.endOfCall
        let said = (try? UnixSocket.receive(agent.number, into: &word)) ?? 0
        loop.unwatch(agent.number)
        if said > 0 {
            if word == CallRequest.endOfCall { session?.abort("the agent ends the call") }
        } else {
            abort(ifEnded: process)
        }
    }

    /// After an agent has closed without a word, how long until it can be told whether it died.
    private static let deathTime = milliseconds(300)

    /// Ends the call if the agent's process has died. One that only takes no more interest in the
    /// call does not concern it.
    private func abort(ifEnded process: Int32) {
        let reason = "the agent is gone: the call ends"
        guard process > 0, let handle = try? CurrentProcess.pidDescriptor(process) else {
            session?.abort(reason)
            return
        }
        loop.schedule(after: Self.deathTime) { [unowned self] in
            let state = try? poll(handle.number, .readable, milliseconds: 0)
            if state?.isEmpty != true { self.session?.abort(reason) }
        }
    }
}
