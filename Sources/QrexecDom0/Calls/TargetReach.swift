import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// Where the daemons of qubes are, and who starts qubes.
struct TargetDirectory {
    let loop: EventLoop
    /// Holds the daemons' sockets.
    let socketDirectory: String
    let qubesd: QubesdCall

    /// Whether a name, number or `uuid:UUID` means the running qube with a domain number.
    func isName(_ target: String, of domain: UInt32) -> Bool {
        target == "\(domain)"
            || FileStatus.linkText("\(socketDirectory)/qrexec.\(target)") == "qrexec.\(domain)"
    }
}

/// Connects to the daemon of a qube; one that does not run is started first.
final class TargetReach {
    enum Failure: Error, CustomStringConvertible {
        case notAName(String)
        case unreachable(path: String, Errno)
        case notStarted(String, QubesdCall.Failure)

        var description: String {
            switch self {
            case .notAName(let text): "'\(LogText.line(text))' is no qube's name"
            case .unreachable(let path, let error): "\(path) cannot be reached: \(error)"
            case .notStarted(let target, let failure):
                "\(target) cannot be started: \(failure)"
            }
        }
    }

    /// When the qube is started.
    enum Start {
        case never
        /// When nobody listens for it.
        case whenNeeded
        /// In any case: it was made for this call.
        case first
    }

    /// A start takes as long as it takes.
    private static let startTime = seconds(180)
    /// How long a running qube's daemon or agent that is started again may be away.
    private static let returnTime = seconds(3)
    private static let returnInterval = milliseconds(20)

    private let directory: TargetDirectory
    private let target: String
    private let start: Start
    private var wasStarted = false
    private var deadline: UInt64 = 0
    private var retry: EventLoop.Timer?
    private var completion: ((Result<HeldDescriptor, Failure>) -> Void)?

    /// Called when the qube has been started.
    var onStarted: () -> Void = {}

    init(_ target: String, in directory: TargetDirectory, start: Start) {
        self.target = target
        self.directory = directory
        self.start = start
    }

    /// - Parameter completion: called once, maybe at once; not after `cancel`.
    func connect(_ completion: @escaping (Result<HeldDescriptor, Failure>) -> Void) {
        self.completion = completion
        guard !target.isEmpty, target.utf8.allSatisfy(Names.isTargetCharacter) else {
            return finish(.failure(.notAName(target)))
        }
        if start == .first { begin() } else { attempt() }
    }

    func cancel() {
        completion = nil
        onStarted = {}
        if let retry { directory.loop.cancel(retry) }
        retry = nil
    }

    private func finish(_ result: Result<HeldDescriptor, Failure>) {
        let handler = completion
        cancel()
        handler?(result)
    }

    private func attempt() {
        let path = "\(directory.socketDirectory)/qrexec.\(target)"
        do throws(Errno) {
            finish(.success(HeldDescriptor(try UnixSocket.connect(path))))
        } catch .resourceTemporarilyUnavailable {
            // The daemon has more connections waiting than its socket holds.
            tryAgain(path, .resourceTemporarilyUnavailable)
        } catch {
            let isAway = error == .noSuchFileOrDirectory || error == .connectionRefused
            if !isAway || start == .never {
                finish(.failure(.unreachable(path: path, error)))
            } else if wasStarted {
                tryAgain(path, error)
            } else {
                begin()
            }
        }
    }

    private func tryAgain(_ path: String, _ error: Errno) {
        let now = CurrentProcess.now
        if deadline == 0 { deadline = now + Self.returnTime }
        guard now < deadline else {
            return finish(.failure(.unreachable(path: path, error)))
        }
        retry = directory.loop.schedule(after: Self.returnInterval) { [weak self] in
            self?.retry = nil
            self?.attempt()
        }
    }

    private func begin() {
        directory.qubesd.call("admin.vm.Start", destination: target, timeout: Self.startTime) {
            [self] result in
            if completion == nil { return }
            switch result {
            case .success, .failure(.refused(type: "QubesVMNotHaltedError", text: _)):
                wasStarted = true
                onStarted()
                attempt()
            case .failure(let failure):
                finish(.failure(.notStarted(target, failure)))
            }
        }
    }
}
