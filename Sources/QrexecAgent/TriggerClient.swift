import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// A local program that asks for a service, seen from the agent: one request, then the answer, then
/// the connection stays until its call ends.
final class TriggerClient {
    /// A client that has not asked by then is dropped: it holds one of 256 places.
    private static let requestTime = seconds(30)
    /// Told to a client whose call goes on without the agent, and to one whose call is ended
    /// (`CallRequest.endOfCall`).
    private static let farewell: UInt8 = 1
    private static let endOfCall: UInt8 = 0

    private let loop: EventLoop
    private let socket: MessageSocket
    private var timer: EventLoop.Timer?
    private var asked = false
    var hasAsked: Bool { asked }
    /// What it asked for, and when.
    private(set) var request: ServiceRequest?
    private(set) var askTime: UInt64 = 0

    /// Where its data channel is, once it was accepted.
    private(set) var place: ConnectParameters?

    var onRequest: (ServiceRequest) -> Void = { _ in }
    /// The client went away, or broke the rules (with a reason); not called after `close`.
    var onEnd: (String?) -> Void = { _ in }

    init(
        loop: EventLoop, taking connection: consuming Descriptor, ident: RequestIdent
    ) throws(Errno) {
        self.loop = loop
        socket = try MessageSocket(loop: loop, taking: connection) {
            (type, length) throws(ProtocolError) in
            switch type {
            case .triggerService, .triggerService3, .triggerService4:
                try ServiceRequest.checkLength(length, of: type)
            default: throw .unexpectedType(type, state: "from a local client")
            }
        }
        socket.onMessage = { [unowned self] in self.received($0, $1, ident) }
        socket.onEnd = { [unowned self] in self.ended($0) }
        timer = loop.schedule(after: Self.requestTime) { [weak self] in
            self?.drop("it sent no request")
        }
    }

    var isClosed: Bool { socket.isClosed }

    /// Refused, or over: the client sees the end of the connection.
    func close() {
        cancelTimer()
        socket.close()
    }

    /// Ends a call that has begun.
    func breakOff() {
        if place != nil { socket.send(raw: [Self.endOfCall]) }
        close()
    }

    /// Tells where the data channel is to be served.
    func accept(_ place: ConnectParameters) {
        guard self.place == nil else { return }
        self.place = place
        socket.send(raw: place.body)
    }

    /// The agent leaves: the client's call goes on if it has begun.
    func leave() {
        if place != nil { socket.send(raw: [Self.farewell]) }
        close()
    }

    private func received(_ type: MessageType, _ body: [UInt8], _ ident: RequestIdent) {
        guard !asked else {
            drop("it sent a second request")
            return
        }
        asked = true
        cancelTimer()
        let own = ServiceRequest.replacingIdent(type, body, with: ident)
        do throws(ProtocolError) {
            switch try ServiceRequest.parse(type, own) {
            case .success(let request):
                self.request = request
                askTime = CurrentProcess.now
                onRequest(request)
            case .failure(let refusal): drop(refusal.reason.description)
            }
        } catch {
            drop(error.description)
        }
    }

    private func ended(_ end: MessageSocket.End) {
        cancelTimer()
        switch end {
        case .closed: onEnd(nil)
        case .protocolError(let error): onEnd(error.description)
        case .failed(let error): onEnd(error.description)
        }
    }

    private func drop(_ reason: String) {
        let handler = onEnd
        close()
        handler(reason)
    }

    private func cancelTimer() {
        if let timer { loop.cancel(timer) }
        timer = nil
    }
}
