import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// The data of a call to a service of dom0 that somebody else has started: a confined daemon moves
/// it between the qube's channel and the descriptors it was handed.
final class HandedSession {
    private let loop: EventLoop
    private let log: Log
    private let service: DispatchedRequest.Service
    private let pump: DataPump
    private var timer: EventLoop.Timer?
    private var isOutputOpen = true
    private var status: Int32?
    private var onEnd: () -> Void

    /// - Parameter onEnd: the call is over; called once.
    init(
        loop: EventLoop, channel: consuming Channel, service: DispatchedRequest.Service, log: Log,
        onEnd: @escaping () -> Void
    ) {
        self.loop = loop
        self.log = log
        self.service = service
        self.onEnd = onEnd
        pump = DataPump(loop: loop, channel: channel, role: .service, log: log)
    }

    func start() throws(VchanError) {
        pump.onOpen = { [unowned self] in self.opened() }
        pump.onSourceEnd = { [unowned self] in self.sourceEnded($0) }
        pump.onMainSinkClosed = { [unowned self] in self.inputClosed() }
        pump.onEnd = { [unowned self] in self.ended($0) }
        timer = loop.schedule(after: seconds(TimeLimits.dom0Execute)) { [weak self] in
            self?.log.warning("the caller did not connect in time")
            self?.over()
        }
        try pump.start()
    }

    /// Ends the call with an error at the caller.
    func cancel() { over() }

    private func opened() {
        if let timer { loop.cancel(timer) }
        timer = nil
        do throws(Errno) {
            pump.sendEnd(of: .dataStderr)
            switch service.kind {
            case .none(let status):
                pump.sendEnd(of: .dataStdout)
                pump.closeMainSink()
                pump.finish(exitCode: status)
            case .program:
                try attach(service.descriptors[0].take(), service.descriptors[1].take())
                service.request.whenEnded { [weak self] status in
                    guard let self else { return }
                    self.status = status
                    self.pump.closeMainSink()
                    self.finishIfOver()
                }
            case .socket:
                let socket = service.descriptors[0]
                guard let number = socket.number else { throw .badFileDescriptor }
                let copy = try Descriptor.duplicate(of: number)
                try attach(socket.take(), copy)
            }
        } catch {
            log.warning("a service's descriptors cannot be used", ["reason": error.description])
            over()
        }
    }

    private func attach(
        _ input: consuming Descriptor?, _ output: consuming Descriptor?
    ) throws(Errno) {
        guard let input, let output else { throw .badFileDescriptor }
        try pump.attachMainSink(input, isSocket: true)
        try pump.attachSource(.dataStdout, output, isSocket: true)
    }

    private var socketEnds: (client: Bool, service: Bool)? {
        guard case .socket(let client, let service) = service.kind else { return nil }
        return (client, service)
    }

    private func sourceEnded(_ type: MessageType) {
        guard type == .dataStdout else { return }
        isOutputOpen = false
        if socketEnds?.service == true { status = 0 }
        finishIfOver()
    }

    private func inputClosed() {
        if socketEnds?.client == true, status == nil {
            status = 0
            isOutputOpen = false
            pump.endSources()
        }
        finishIfOver()
    }

    private func finishIfOver() {
        guard !isOutputOpen else { return }
        if socketEnds != nil, pump.mainSinkIsClosed, status == nil { status = 0 }
        if let status { pump.finish(exitCode: status) }
    }

    private func ended(_ end: DataPump.End) {
        switch end {
        case .finished: break
        case .closedEarly: log.info("the caller is gone")
        case .protocolError(let error):
            log.warning("the caller broke the protocol", ["reason": error.description])
        case .failed(let error):
            log.warning("the data channel failed", ["reason": error.description])
        }
        over()
    }

    private func over() {
        if let timer { loop.cancel(timer) }
        timer = nil
        pump.close()
        service.request.sessionEnded()
        let handler = onEnd
        onEnd = {}
        handler()
    }
}
