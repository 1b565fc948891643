import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// The data of a call to a service of dom0 that somebody else has started: a confined daemon moves
/// it between the qube's channel and the descriptors it was handed.
final class HandedSession {
    private let log: Log
    private let service: DispatchedRequest.Service
    private let channel: ServiceChannel
    private var pump: DataPump { channel.pump }
    private var isOutputOpen = true
    private var status: Int32?
    private var onEnd: () -> Void

    /// - Parameter onEnd: the call is over; called once.
    init(
        loop: EventLoop, channel: consuming Channel, service: DispatchedRequest.Service, log: Log,
        onEnd: @escaping () -> Void
    ) {
        self.log = log
        self.service = service
        self.onEnd = onEnd
        self.channel = ServiceChannel(loop: loop, channel: channel, log: log)
    }

    func start() throws(VchanError) {
        pump.onSourceEnd = { [unowned self] in self.sourceEnded($0) }
        pump.onMainSinkClosed = { [unowned self] in self.inputClosed() }
        try channel.start(
            patience: TimeLimits.dom0Execute, onOpen: { [unowned self] in self.opened() },
            onEnd: { [unowned self] _ in self.over() })
    }

    /// Ends the call with an error at the caller.
    func cancel() { over() }

    private func opened() {
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

    private func over() {
        channel.close()
        service.request.sessionEnded()
        let handler = onEnd
        onEnd = {}
        handler()
    }
}
