import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// A confined daemon as the dispatcher sees it. Its process may be in the hands of its qube: what
/// it asks for is given only as far as that qube's own daemon may have it.
final class BoundDaemon {
    /// What the starter said; the daemon has no say in it.
    struct Identity {
        let domain: DomainID
        let name: String
        let uuid: String?
        let socketDirectory: String
        /// Whom its services in dom0 run as, where this process can choose.
        let user: UInt32
        /// Where its services in dom0 write errors.
        let errors: HeldDescriptor
    }

    /// Requests that are being decided or carried out, calls to disposables and to dom0.
    private static let maximumCalls = 2 * Limits.pendingRequests + Limits.dataPorts
    /// Channels on the way.
    private static let maximumOpenings = Limits.dataPorts + 1
    /// For the qube to offer a data channel.
    private static let openingTime = seconds(TimeLimits.dom0Execute + 1)

    private let identity: Identity
    private unowned let dispatcher: Dispatcher
    private let transport: Transport
    private let line: MessageLine
    private let sockets: DaemonSockets
    private let directory: TargetDirectory
    private var openings: [UInt32: PendingOpening] = [:]
    private var calls: [UInt32: DispatchedCall] = [:]
    private var isListening = false

    private var loop: EventLoop { dispatcher.loop }
    private var log: Log { dispatcher.log }

    init(
        _ identity: Identity, taking held: HeldDescriptor, of dispatcher: Dispatcher,
        transport: Transport
    ) throws(Errno) {
        self.identity = identity
        self.dispatcher = dispatcher
        self.transport = transport
        guard let socket = held.take() else { throw .badFileDescriptor }
        // A daemon has nothing to hand over.
        line = try MessageLine(loop: dispatcher.loop, taking: socket, maximumDescriptors: 0)
        sockets = DaemonSockets(
            directory: identity.socketDirectory, domain: identity.domain, name: identity.name,
            uuid: identity.uuid)
        directory = TargetDirectory(
            loop: dispatcher.loop, socketDirectory: identity.socketDirectory,
            qubesd: QubesdCall(loop: dispatcher.loop))
        line.onMessage = { [unowned self] (message, _) throws(DispatchMessage.Malformed) in
            try self.received(message)
        }
        line.onEnd = { [unowned self] in self.ended($0) }
    }

    private func ended(_ reason: String) {
        log.warning("a daemon is gone", ["qube": identity.name, "reason": reason])
        unlisten()
        openings = [:]
        // Calls between qubes go on without their daemons; a disposable goes at its call's end.
        for call in Array(calls.values) { call.daemonIsGone() }
        calls = [:]
        dispatcher.forget(self)
    }

    private func received(_ message: DispatchMessage) throws(DispatchMessage.Malformed) {
        switch message.word {
        case "channel":
            try message.only(["id", "port"])
            try open(message.number("port"), id: message.number("id"))
        case "listen":
            try message.only([])
            listen()
        case "unlisten":
            try message.only([])
            unlisten()
        case "call": try call(message)
        case "end":
            try message.only(["id"])
            try calls[message.number("id")]?.callerEnded()
        default: throw DispatchMessage.Malformed(description: "an unknown word")
        }
    }

    // MARK: Channels of its own qube

    private func open(_ port: UInt32, id: UInt32) throws(DispatchMessage.Malformed) {
        guard port == Limits.controlPort || Limits.isDataPort(port), openings[id] == nil else {
            throw DispatchMessage.Malformed(description: "a port that is no qube's")
        }
        guard openings.count < Self.maximumOpenings else {
            return line.send(
                DispatchMessage("channel", ["id": "\(id)", "reason": "too many are on the way"]))
        }
        do throws(VchanError) {
            let name = try transport.handoverName
            let opening = PendingOpening(
                loop, try transport.open(to: identity.domain, port: Port(port)!),
                time: port == Limits.controlPort ? nil : Self.openingTime
            ) { [unowned self] result in
                self.openings[id] = nil
                switch result {
                case .success(let connection):
                    self.line.send(
                        DispatchMessage("channel", ["id": "\(id)", "transport": name]),
                        [connection])
                case .failure(let error):
                    self.line.send(
                        DispatchMessage("channel", ["id": "\(id)", "reason": error.description]))
                }
            }
            openings[id] = opening
            opening.start()
        } catch {
            line.send(DispatchMessage("channel", ["id": "\(id)", "reason": error.description]))
        }
    }

    // MARK: Its own socket

    private func listen() {
        do throws(Errno) {
            let socket = HeldDescriptor(try sockets.open())
            isListening = true
            line.send(DispatchMessage("listen"), [socket])
        } catch {
            line.send(DispatchMessage("listen", ["reason": error.description]))
        }
    }

    private func unlisten() {
        guard isListening else { return }
        isListening = false
        sockets.remove()
    }

    // MARK: Calls

    private func call(_ message: DispatchMessage) throws(DispatchMessage.Malformed) {
        let words = try CallWords(message)
        let id = words.id
        guard calls[id] == nil else {
            throw DispatchMessage.Malformed(description: "an id in use")
        }
        guard calls.count < Self.maximumCalls else {
            return line.send(
                DispatchMessage(
                    "refused", ["id": "\(id)", "outcome": "failed", "reason": "too many calls"]))
        }
        let caller = AllowedCall.Caller(
            name: identity.name, domain: UInt32(identity.domain.rawValue),
            service: words.service)
        let request = DispatchedCall.Request(
            id: id, caller: caller, target: words.target, claimed: words.claimed,
            user: identity.user, errors: identity.errors)
        let call = DispatchedCall(
            request, authority: dispatcher.authority, directory: directory, log: log
        ) { [weak self] in self?.line.send($0, $1) }
        call.onEnd = { [weak self] in self?.calls[id] = nil }
        calls[id] = call
        call.start()
    }
}

/// A channel that waits until its server exists.
private final class PendingOpening {
    private let loop: EventLoop
    private var opening: ChannelOpening
    private var watched: Int32?
    private var timer: EventLoop.Timer?
    private var completion: ((Result<HeldDescriptor, VchanError>) -> Void)?

    init(
        _ loop: EventLoop, _ opening: consuming ChannelOpening, time: UInt64?,
        completion: @escaping (Result<HeldDescriptor, VchanError>) -> Void
    ) {
        self.loop = loop
        self.opening = opening
        self.completion = completion
        if let time {
            timer = loop.schedule(after: time) { [weak self] in self?.finish(.failure(.timedOut)) }
        }
    }

    deinit {
        if let timer { loop.cancel(timer) }
        unwatch()
    }

    private func unwatch() {
        if let watched { loop.unwatch(watched) }
        watched = nil
    }

    private func finish(_ result: Result<HeldDescriptor, VchanError>) {
        unwatch()
        let handler = completion
        completion = nil
        handler?(result)
    }

    func start() { step() }

    private func step() {
        unwatch()
        do throws(VchanError) {
            if let connection = try opening.advance() {
                return finish(.success(HeldDescriptor(connection)))
            }
            let number = opening.pollDescriptor
            do throws(Errno) {
                try loop.watch(number, .readable) { [weak self] _ in self?.step() }
                watched = number
            } catch {
                throw .system(call: "epoll_ctl", error)
            }
        } catch {
            finish(.failure(error))
        }
    }
}
