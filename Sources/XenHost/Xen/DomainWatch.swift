import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Tells that domains came or went; who is asked then.
protocol DomainWatch: AnyObject {
    /// Called, on the loop, when something may have changed.
    var onChange: () -> Void { get set }
    func start()
    func stop()
}

/// Watches `@introduceDomain` and `@releaseDomain` by the program `xenstore-watch`: a store that does
/// not answer then holds that program, and not the manager. While it cannot run, the manager is told
/// to look every second.
final class StoreWatchProgram: DomainWatch {
    private static let fallbackInterval = seconds(1)
    /// Looks although nothing was told: a pause, for one, is no event of the store.
    private static let slowInterval = seconds(20)
    /// Until it is tried again.
    private static let restartPause = seconds(5)

    private final class Output {
        let pipe: Descriptor
        init(_ pipe: consuming Descriptor) { self.pipe = pipe }
    }

    private let loop: EventLoop
    private let log: Log
    private let program: String
    private var process: ChildProcess?
    private var output: Output?
    private var isStopped = false
    private var hasComplained = false
    var onChange: () -> Void = {}

    init(loop: EventLoop, program: String, log: Log) {
        self.loop = loop
        self.program = program
        self.log = log
    }

    func start() {
        run()
        tick()
    }

    private func tick() {
        let interval = process != nil ? Self.slowInterval : Self.fallbackInterval
        loop.schedule(after: interval) { [weak self] in
            guard let self, !self.isStopped else { return }
            self.onChange()
            self.tick()
        }
    }

    private func run() {
        guard !isStopped else { return }
        do throws(Errno) {
            let pipe = try Descriptor.pipe()
            let null = try Descriptor.open("/dev/null", O_RDWR)
            var request = SpawnRequest(
                path: program, arguments: [program, "@introduceDomain", "@releaseDomain"],
                environment: [])
            request.descriptors = [null.number, pipe.second.number, null.number]
            request.diesWithParent = true
            let child = try ChildProcess.spawn(request)
            _ = consume pipe.second
            try pipe.first.setNonblocking(true)
            let output = Output(pipe.first)
            try loop.watch(output.pipe.number, .readable) { [unowned self] _ in self.read(output) }
            self.output = output
            try loop.watch(child.pidfd.number, .readable) { [unowned self] _ in self.ended() }
            process = consume child
        } catch {
            complain("cannot start \(program): \(error)")
            retry()
        }
    }

    private func complain(_ text: String) {
        guard !hasComplained else { return }
        hasComplained = true
        log.warning("\(text); domains are looked for every second")
    }

    private func retry() {
        loop.schedule(after: Self.restartPause) { [weak self] in self?.run() }
    }

    /// Which watch fired does not matter: whoever is told looks at all domains.
    private func read(_ output: Output) {
        var chunk = [UInt8](repeating: 0, count: 4096)
        var changed = false
        var isOpen = true
        while isOpen {
            do throws(Errno) {
                let count = try output.pipe.read(into: &chunk)
                isOpen = count > 0
                changed = changed || isOpen
            } catch {
                isOpen = error == .resourceTemporarilyUnavailable
                break
            }
        }
        if !isOpen { loop.unwatch(output.pipe.number) }
        if changed { onChange() }
    }

    private func ended() {
        close()
        complain("\(program) ended")
        if !isStopped { retry() }
    }

    private func close() {
        if let output { loop.unwatch(output.pipe.number) }
        output = nil
        guard let child = process.take() else { return }
        loop.unwatch(child.pidfd.number)
        child.signal(SIGKILL)
        _ = try? child.reap()
    }

    func stop() {
        isStopped = true
        close()
    }
}
