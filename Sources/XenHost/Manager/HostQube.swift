import QrexecDom0
import QrexecProtocol
import QrexecRuntime

/// One qube of the host.
final class HostQube {
    enum Phase: Equatable {
        case halted
        /// `xl create` runs.
        case creating
        /// Its domain is there, its agent is not connected yet.
        case connecting
        case running
    }

    /// Changed when the configuration file is read again; tags of a disposable are added when it is
    /// handed out.
    var settings: HostQubeSettings
    /// What only a disposable has.
    var disposable: DisposableFiles?
    /// A disposable that waits to be used.
    var isPooled = false
    /// Runs, and is as still as it can be made.
    var isReadyInPool = false
    /// What `xl list` tells may be older.
    var isPausedByUs = false
    /// A disposable of an earlier manager, before it is known whether it runs.
    var isLeft = false
    /// Was taken out of the configuration file, and is forgotten when it halts.
    var isForgotten = false

    var phase = Phase.halted
    var isPaused = false
    var domain: UInt32?
    /// While `xl create` runs.
    var creation: CommandRunner.Command?
    /// Lists up to this one were begun before `xl create` or `xl destroy` ended, and do not tell
    /// what these did.
    var listsBefore = 0
    var isStopping = false
    /// Nobody asked for its end: whether it starts anew, or is kept, is in its xl configuration.
    var endsByItself = false
    /// While `xl destroy` runs.
    var isBeingDestroyed = false
    /// Why `xl destroy` failed, until it is known whether the domain is there.
    var destroyProblem: String?
    var deadline: EventLoop.Timer?
    /// Waiting for its start, and for its end.
    var startWaiters: [QubeManager.Completion] = []
    var stopWaiters: [QubeManager.Completion] = []
    /// Why the last start failed.
    var failure: String?

    init(_ settings: HostQubeSettings) { self.settings = settings }

    var name: String { settings.name }

    var powerState: QubeRecord.PowerState {
        if settings.isDom0 { return .running }
        if isStopping { return .transient }
        switch phase {
        case .halted: return .halted
        case .creating, .connecting: return .transient
        case .running: return isPaused ? .paused : .running
        }
    }

    /// - Parameter standard: the default disposable template of qubes that name none.
    func record(standard: String?) -> QubeRecord {
        var record = QubeRecord(
            name: name, type: settings.type, label: settings.label, uuid: settings.uuid)
        record.tags = settings.tags
        record.features = settings.features
        record.isTemplateForDisposables = settings.isTemplateForDisposables
        let disposable = settings.defaultDisposable ?? standard
        record.defaultDisposable = disposable?.isEmpty == false ? disposable : nil
        let hasGUI = !settings.isDom0 && !settings.guiQube.isEmpty
        record.guiQube = hasGUI ? settings.guiQube : nil
        record.defaultUser = settings.defaultUser
        record.powerState = powerState
        record.domainID = settings.isDom0 ? 0 : domain
        record.isInternal = isPooled
        return record
    }

    var runningDomain: RunningDomain? {
        domain.map {
            RunningDomain(
                id: $0, name: name, uuid: settings.uuid, defaultUser: settings.defaultUser)
        }
    }

    /// Tells all who wait for the start.
    func finishStart(_ error: QubesdError?) {
        let waiters = startWaiters
        startWaiters = []
        for waiter in waiters { waiter(error) }
    }

    func finishStop(_ error: QubesdError? = nil) {
        let waiters = stopWaiters
        stopWaiters = []
        for waiter in waiters { waiter(error) }
    }
}
