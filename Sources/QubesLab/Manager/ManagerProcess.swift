import Glibc
import LinuxSystem
import QrexecDom0
import QrexecRuntime
import SystemPackage

/// The manager's process: brings the lab up, tells `qubes-lab up` how that goes, and runs until
/// `down` or a signal.
final class ManagerProcess {
    /// Holds the lab's lock; never read.
    static let lockDescriptor: Int32 = 3
    /// Lines for `up`: `+ TEXT` progress, `ready`, or `! TEXT` failure.
    static let progressDescriptor: Int32 = 4

    private let loop: EventLoop
    private let state: StateDirectory
    private let lab: Lab
    private var control: ControlServer?
    private var progress: OwnedDescriptor?
    private var isEnding = false
    private var listeners: [(String, Bool) -> Void] = []

    static func run(_ arguments: [String]) -> Int32 {
        guard arguments.count == 2 else { return 125 }
        CurrentProcess.ignoreBrokenPipes()
        let progress = OwnedDescriptor(Descriptor(taking: progressDescriptor))
        do {
            let process = try ManagerProcess(
                StateDirectory(arguments[0]), programs: arguments[1], progress: progress)
            try process.begin()
            try process.loop.run()
            process.lab.logs.gather()
            return 0
        } catch {
            tell(progress, "! \(error)")
            return 1
        }
    }

    private static func tell(_ progress: OwnedDescriptor, _ line: String) {
        try? progress.descriptor.writeAll(Array((line + "\n").utf8))
    }

    private func tell(_ line: String) {
        if let progress { Self.tell(progress, line) }
    }

    private init(
        _ state: StateDirectory, programs: String, progress: OwnedDescriptor
    ) throws {
        self.state = state
        self.progress = progress
        loop = try EventLoop()
        guard let bytes = try? Descriptor.open(state.settings, O_RDONLY).readAll(limit: 1 << 20),
            let settings = Packet.decode(LabSettings.self, bytes)
        else { throw LabError("cannot read \(state.settings)") }
        for directory in [state.xen, state.programs, state.path + "/qubes"] {
            try PathStatus.makeDirectory(directory, mode: 0o755)
        }
        var sides: [Programs.Side: Programs] = [:]
        for side in Programs.Side.allCases {
            sides[side] = try Programs(in: programs, side: side)
        }
        // Both sides share a tree when they have the same programs.
        var trees: [Programs.Side: String] = [:]
        for (side, programs) in sides.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            if let twin = trees.first(where: { sides[$0.key] == programs }) {
                trees[side] = twin.value
            } else {
                trees[side] = "\(state.programs)/\(side.rawValue)"
                try ProgramTree.make(at: trees[side]!, programs)
            }
        }
        lab = try Lab(
            loop: loop, state: state, settings: settings, programs: sides, trees: trees,
            bubblewrap: try Self.bubblewrap())
    }

    private static func bubblewrap() throws -> String {
        for path in ["/usr/bin/bwrap", "/usr/local/bin/bwrap"] where FileStatus.isExecutable(path) {
            return path
        }
        throw LabError("bubblewrap is not installed; run: apt-get install bubblewrap")
    }

    private func begin() throws(Errno) {
        ProcessRecord(pid: CurrentProcess.id)?.write(to: state.path + "/manager.pid")
        let control = try ControlServer(loop: loop, lab: lab, path: state.socket)
        control.onDown = { [unowned self] listener in
            self.listeners.append(listener)
            self.end()
        }
        self.control = control
        try loop.onSignals([SIGTERM, SIGINT, SIGHUP]) { [unowned self] signal in
            if signal != SIGHUP { self.end() }
        }
        try watchProgress()
        loop.defer { [unowned self] in
            self.lab.start("dom0") { error in
                if let error { self.fail(error.message) } else { self.startQubes() }
            }
        }
    }

    /// `up` was ended before the lab was ready: so is the lab.
    private func watchProgress() throws(Errno) {
        guard let progress else { return }
        try loop.watch(progress.descriptor.number, []) { [unowned self] readiness in
            if readiness.contains(.hangup), self.progress != nil {
                self.dropProgress()
                self.end()
            }
        }
    }

    private func dropProgress() {
        guard let progress else { return }
        loop.unwatch(progress.descriptor.number)
        self.progress = nil
    }

    private func startQubes() {
        tell("+ dom0 runs")
        let names = lab.settings.qubes.filter { $0.autostart && !$0.isDom0 }.map(\.name)
        var left = names.count
        if left == 0 { return ready() }
        for name in names {
            lab.start(name) { [unowned self] error in
                if let error { return self.fail(error.message) }
                self.tell("+ \(name) is connected")
                left -= 1
                if left == 0 { self.ready() }
            }
        }
    }

    private func ready() {
        guard !isEnding else { return }
        tell("ready")
        dropProgress()
        lab.disposables.fill()
    }

    private func fail(_ reason: String) {
        guard !isEnding else { return }
        tell("! \(reason)")
        dropProgress()
        end()
    }

    // MARK: The end

    private func end() {
        guard !isEnding else { return }
        isEnding = true
        lab.isEnding = true
        let others = lab.table.filter { !$0.settings.isDom0 && $0.powerState != .halted }
        var left = others.count
        if left == 0 { return endDom0() }
        for qube in others {
            qube.stopWaiters.append { [unowned self] _ in
                self.report("\(qube.name) is halted", isDone: false)
                left -= 1
                if left == 0 { self.endDom0() }
            }
            lab.stop(qube) { $0.shutDown(graceMilliseconds: 1000) }
        }
    }

    private func endDom0() {
        let dom0 = lab.dom0
        guard dom0.powerState != .halted else { return finish() }
        dom0.stopWaiters.append { [unowned self] _ in self.finish() }
        lab.stop(dom0) { $0.shutDown(graceMilliseconds: 1000) }
    }

    private func finish() {
        lab.workers.stop()
        report("dom0 is halted", isDone: true)
        loop.stop()
    }

    private func report(_ text: String, isDone: Bool) {
        for listener in listeners { listener(text, isDone) }
    }
}
