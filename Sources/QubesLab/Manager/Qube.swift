import LinuxSystem
import QrexecDom0
import QrexecProtocol
import QrexecRuntime

/// One qube of a running lab.
final class Qube {
    /// Tags of a disposable are added when it is handed out.
    var settings: QubeSettings
    let files: QubeFiles
    /// Which of the id ranges of the host are its own.
    let slot: Int
    let output: LogCollector.Source
    /// Removed when it halts: a disposable.
    let isRemovedWhenHalted: Bool
    /// A disposable that waits to be used.
    var isPooled = false

    var powerState = QubeRecord.PowerState.halted
    var domain: UInt32?
    var sandbox: Sandbox?
    var agent: SupervisedProgram?
    /// In dom0: the policy daemon.
    var daemon: SupervisedProgram?
    var isStopping = false
    var deadline: EventLoop.Timer?
    /// Waiting for its start, and for its end.
    var startWaiters: [QubeManager.Completion] = []
    var stopWaiters: [QubeManager.Completion] = []
    /// Why the last start failed.
    var failure: String?

    init(
        settings: QubeSettings, files: QubeFiles, slot: Int, output: LogCollector.Source,
        isRemovedWhenHalted: Bool = false
    ) {
        self.settings = settings
        self.files = files
        self.slot = slot
        self.output = output
        self.isRemovedWhenHalted = isRemovedWhenHalted
    }

    var name: String { settings.name }

    /// - Parameter hasDefaultDisposable: whether the one of the settings exists.
    func record(hasDefaultDisposable: Bool) -> QubeRecord {
        let type = QubeRecord.Class(rawValue: settings.type) ?? .app
        var record = QubeRecord(
            name: name, type: type, label: settings.label, uuid: files.uuid)
        record.tags = settings.tags
        record.features = settings.features
        record.isTemplateForDisposables = settings.isTemplateForDisposables
        record.defaultDisposable = hasDefaultDisposable ? settings.defaultDisposable : nil
        record.guiQube = settings.isDom0 ? nil : "dom0"
        record.powerState = powerState
        record.domainID = domain
        record.isInternal = isPooled
        return record
    }

    /// Tells all who wait for the start.
    func finishStart(_ error: QubesdError?) {
        let waiters = startWaiters
        startWaiters = []
        for waiter in waiters { waiter(error) }
    }

    func finishStop() {
        let waiters = stopWaiters
        stopWaiters = []
        for waiter in waiters { waiter(nil) }
    }
}

/// Numbers of domains: an ended one's is used again as late as possible, so that what still knows
/// the old domain does not meet a new one.
struct DomainNumbers {
    private var used: Set<UInt32> = [0]
    private var last: UInt32 = 0

    /// nil when all are taken.
    mutating func take() -> UInt32? {
        let count = UInt32(LabSettings.maximumDomains)
        for step in 1..<count {
            let number = (last + step) % count
            if used.insert(number).inserted {
                last = number
                return number
            }
        }
        return nil
    }

    /// dom0 keeps its own.
    mutating func giveBack(_ number: UInt32) {
        if number != 0 { used.remove(number) }
    }
}
