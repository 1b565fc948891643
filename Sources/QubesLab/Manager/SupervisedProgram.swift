import Glibc
import LinuxSystem
import QrexecRuntime

/// A program of a domain that is started again when it ends.
final class SupervisedProgram {
    /// For a program that is told to stop to do so.
    private static let patience = seconds(2)

    let name: String
    private let loop: EventLoop
    private weak var sandbox: Sandbox?
    private let request: ProgramRequest
    private let output: LogCollector.Source
    private let note: (String) -> Void
    private var number: UInt32?
    private var pause = RestartPause()
    private var isStopping = false
    private var timer: EventLoop.Timer?
    /// Its process id on the host while it runs.
    private(set) var pid: Int32?
    private(set) var starts = 0
    /// Called before each start.
    var beforeStart: () -> Void = {}
    /// Called when the program cannot be started at all.
    var onMissing: (String) -> Void = { _ in }

    init(
        _ request: ProgramRequest, in sandbox: Sandbox, loop: EventLoop,
        output: LogCollector.Source, note: @escaping (String) -> Void
    ) {
        name = request.arguments.first ?? ""
        self.request = request
        self.sandbox = sandbox
        self.loop = loop
        self.output = output
        self.note = note
    }

    func start() {
        guard let sandbox, !isStopping else { return }
        beforeStart()
        starts += 1
        pause.begin()
        number = sandbox.start(
            request, output: output.output.number,
            Sandbox.ProgramHandler(
                started: { [weak self] pid in self?.pid = pid },
                ended: { [weak self] status, reason in self?.ended(status, reason) }))
    }

    /// Ends the program for good.
    func stop() {
        isStopping = true
        if let timer { loop.cancel(timer) }
        guard let number, let sandbox else { return }
        sandbox.signal(number, SIGTERM)
        loop.schedule(after: Self.patience) { [weak sandbox] in sandbox?.signal(number, SIGKILL) }
    }

    private func ended(_ status: Int32, _ reason: String?) {
        pid = nil
        number = nil
        if isStopping { return }
        if let reason {
            note("cannot start \(name): \(reason)")
            onMissing(reason)
        } else {
            note("\(name) ended with status \(status) and is started again")
        }
        timer = loop.schedule(after: pause.next()) { [weak self] in self?.start() }
    }
}
