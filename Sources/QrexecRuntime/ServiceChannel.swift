import LinuxSystem
import QrexecProtocol
public import Vchan

/// The data channel of a call at the service's side, as every session begins and ends it: the caller
/// has some time to join it, and how it ended is told in the log.
public final class ServiceChannel {
    public let pump: DataPump
    /// When the caller joined, by `CurrentProcess.now`.
    public private(set) var openTime: UInt64?

    private let loop: EventLoop
    private let log: Log
    private var timer: EventLoop.Timer?

    /// - Parameter channel: it is being connected.
    public init(loop: EventLoop, channel: consuming Channel, log: Log) {
        self.loop = loop
        self.log = log
        pump = DataPump(loop: loop, channel: channel, role: .service, log: log)
    }

    /// Waits for the caller.
    ///
    /// - Parameters:
    ///   - patience: seconds that it has to join.
    ///   - onOpen: it is there.
    ///   - onEnd: the call is over; told whether in order.
    public func start(
        patience: UInt64, onOpen: @escaping () -> Void, onEnd: @escaping (Bool) -> Void
    ) throws(VchanError) {
        pump.onOpen = { [unowned self] in
            self.stopWaiting()
            self.openTime = CurrentProcess.now
            onOpen()
        }
        pump.onEnd = { [unowned self] in onEnd(self.isOrderly($0)) }
        timer = loop.schedule(after: seconds(patience)) { [weak self] in
            guard let self else { return }
            self.timer = nil
            self.log.warning("the caller did not connect in time")
            onEnd(false)
        }
        try pump.start()
    }

    /// The caller need not join any more.
    public func stopWaiting() {
        if let timer = timer.take() { loop.cancel(timer) }
    }

    public func close() {
        stopWaiting()
        pump.close()
    }

    private func isOrderly(_ end: DataPump.End) -> Bool {
        switch end {
        case .finished: return true
        case .closedEarly: log.info("the caller is gone")
        case .protocolError(let error):
            log.warning("the caller broke the protocol", ["reason": error.description])
        case .failed(let error):
            log.warning("the data channel failed", ["reason": error.description])
        }
        return false
    }
}
