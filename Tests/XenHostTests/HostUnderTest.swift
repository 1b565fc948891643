import Glibc
import LinuxSystem
import QrexecDom0
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Testing

@testable import XenHost

/// Looks every few milliseconds, as often as a store would tell.
private final class FrequentWatch: DomainWatch {
    private let loop: EventLoop
    private var isStopped = false
    var onChange: () -> Void = {}

    init(loop: EventLoop) { self.loop = loop }

    func start() {
        loop.schedule(after: milliseconds(20)) { [weak self] in
            guard let self, !self.isStopped else { return }
            self.onChange()
            self.start()
        }
    }

    func stop() { isStopped = true }
}

/// A host in a directory of its own: the manager with stand-ins for xl and qrexec-daemon.
final class HostUnderTest {
    let directory: TemporaryDirectory
    let loop: EventLoop
    private(set) var manager: XenQubeManager
    private(set) var events: [String] = []
    private let settings: HostSettings

    var path: String { directory.path }

    static let standard = """
        [qubes.dom0]
        default_dispvm = "dvm"
        [qubes.work]
        label = "blue"
        [qubes.vault]
        qrexec = false
        [qubes.dvm]
        template_for_dispvms = true
        """

    /// - Parameter text: of the configuration; `@DIR@` is the host's directory.
    init(_ text: String = HostUnderTest.standard, host: String = "", begin: Bool = true) throws {
        directory = try TemporaryDirectory(prefix: "/tmp/qubes-xl-test")
        for (name, source) in [("xl", "stand-in-xl"), ("qrexec-daemon", "stand-in-daemon")] {
            try Self.copy(Self.source(source), to: "\(directory.path)/\(name)")
        }
        for name in ["domains", "sockets", "tools"] {
            try PathStatus.makeDirectory("\(directory.path)/\(name)", mode: 0o755)
        }
        var text = text.replacing("@DIR@", with: directory.path)
        text += """

            [host]
            xl = "\(directory.path)/xl"
            state = "\(directory.path)/state"
            \(host)
            """
        var settings = try HostSettingsFile.parse(text, path: "xl.toml", machine: "m")
        for index in settings.qubes.indices
        where settings.qubes[index].configuration.hasPrefix("/etc/xen/") {
            let name = settings.qubes[index].name
            settings.qubes[index].configuration = "\(directory.path)/\(name).cfg"
            try Self.write("memory = 400\n", to: "\(directory.path)/\(name).cfg")
        }
        self.settings = settings
        loop = try EventLoop()
        manager = Self.manager(loop, settings, directory.path)
        if begin { try self.begin() }
    }

    private static func manager(
        _ loop: EventLoop, _ settings: HostSettings, _ path: String
    ) -> XenQubeManager {
        var log = Log(program: "test")
        log.threshold = .error
        let daemon = DaemonSpawner.Options(
            program: "\(path)/qrexec-daemon", socketDirectory: "\(path)/sockets")
        return XenQubeManager(
            loop: loop, settings: settings, watch: FrequentWatch(loop: loop),
            daemons: DaemonSpawner(loop: loop, options: daemon, log: log), log: log,
            diskTools: ["\(path)/tools"] + DiskCopier.standardTools)
    }

    func begin() throws {
        manager.onEvent = { [weak self] event in
            self?.events.append("\(event.subject) \(event.name)")
        }
        var isReady = false
        manager.begin { isReady = true }
        try wait { isReady }
    }

    /// Another manager takes over, as after a crash.
    func restart() throws {
        manager.end()
        manager = Self.manager(loop, settings, path)
        try begin()
    }

    deinit { manager.end() }

    static func source(_ name: String) -> String {
        "/" + #filePath.split(separator: "/").dropLast().joined(separator: "/") + "/\(name)"
    }

    static func copy(_ source: String, to path: String) throws {
        let bytes = try Descriptor.open(source, O_RDONLY).readAll(limit: 1 << 20)
        try write(String(decoding: bytes, as: UTF8.self), to: path, mode: 0o755)
    }

    static func write(_ text: String, to path: String, mode: UInt32 = 0o644) throws {
        try FileStatus.remove(path)
        let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL, mode: mode)
        try file.writeAll(Array(text.utf8))
    }

    static func read(_ path: String) -> String {
        let bytes = try? Descriptor.open(path, O_RDONLY).readAll(limit: 1 << 20)
        return String(decoding: bytes ?? [], as: UTF8.self)
    }

    /// A file beside the stand-ins, which steers them.
    func put(_ name: String, _ text: String = "", mode: UInt32 = 0o644) throws {
        try Self.write(text, to: "\(path)/\(name)", mode: mode)
    }

    func take(_ name: String) throws { try FileStatus.remove("\(path)/\(name)") }

    /// What xl was called with, but for `list`.
    var calls: [String] {
        Self.read("\(path)/calls").split(separator: "\n").map { String($0.dropFirst()) }
            .filter { !$0.hasPrefix("list") }
    }

    /// Names of the domains that run.
    var domains: [String] {
        let names = (try? PathStatus.names(in: "\(path)/domains")) ?? []
        return names.compactMap {
            Self.read("\(path)/domains/\($0)").split(separator: " ").first.map(String.init)
        }.sorted()
    }

    struct Stuck: Error {}

    /// Runs the loop until something holds; a minute is for a machine that is busy with others.
    func wait(_ condition: @escaping () -> Bool) throws {
        // A loop that is told to stop now would not run the next time.
        if condition() { return }
        var isOver = false
        let deadline = loop.schedule(after: seconds(60)) { [loop] in
            isOver = true
            loop.stop()
        }
        func look() {
            if condition() { return loop.stop() }
            loop.schedule(after: milliseconds(5)) { look() }
        }
        look()
        try loop.run()
        loop.cancel(deadline)
        if isOver { throw Stuck() }
    }

    private func perform(
        _ action: (@escaping QubeManager.Completion) -> Void
    ) throws -> QubesdError? {
        var result: QubesdError??
        action { result = .some($0) }
        try wait { result != nil }
        return result!
    }

    func start(_ name: String) throws -> QubesdError? {
        try perform { manager.start(name, completion: $0) }
    }
    func shutdown(_ name: String) throws -> QubesdError? {
        try perform { manager.shutdown(name, completion: $0) }
    }
    func kill(_ name: String) throws -> QubesdError? {
        try perform { manager.kill(name, completion: $0) }
    }

    func disposable(
        _ template: String? = nil, caller: String = "work", requester: Int32? = nil
    ) throws -> Result<QubeRecord, QubesdError> {
        var result: Result<QubeRecord, QubesdError>?
        manager.createDisposable(
            DisposableRequest(template: template, caller: caller, requester: requester)
        ) { result = $0 }
        try wait { result != nil }
        return result!
    }

    func record(_ name: String) -> QubeRecord? { manager.qubes.first { $0.name == name } }

    /// A domain that somebody else started.
    func startElsewhere(_ name: String, _ id: Int) throws {
        try put("domains/\(id)", "\(name) 11111111-2222-3333-4444-555555555555 r-----\n")
    }

    func isRunning(_ pid: Int32) -> Bool {
        Self.read("/proc/\(pid)/stat").split(separator: " ").dropFirst(2).first.map { $0 != "Z" }
            ?? false
    }
}
