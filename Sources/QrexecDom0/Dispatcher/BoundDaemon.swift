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
    /// Channels on the way, and those that are open and cost something here.
    private static let maximumChannels = Limits.dataPorts + 1
    /// For the qube to offer a data channel.
    private static let openingTime = seconds(TimeLimits.dom0Execute + 1)

    private let identity: Identity
    private unowned let dispatcher: Dispatcher
    private let transport: Transport
    private let line: MessageLine
    private let sockets: DaemonSockets
    private let directory: TargetDirectory
    private var openings: [UInt32: PendingOpening] = [:]
    /// Of channels that the daemon has, by the descriptor that tells of their end.
    private var keepers: [Int32: ChannelKeeper] = [:]
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
            directory: identity.socketDirectory, domain: UInt32(identity.domain.rawValue),
            name: identity.name, uuid: identity.uuid)
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
        for number in keepers.keys { loop.unwatch(number) }
        keepers = [:]
        // Calls between qubes go on without their daemons; a disposable goes at its call's end.
        for call in Array(calls.values) { call.daemonIsGone() }
        calls = [:]
        dispatcher.forget(self)
    }

    private func received(_ message: DispatchMessage) throws(DispatchMessage.Malformed) {
        switch message.word {
        case "channel": try open(ChannelWords(message))
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

    private func open(_ words: ChannelWords) throws(DispatchMessage.Malformed) {
        let id = words.id
        guard openings[id] == nil else {
            throw DispatchMessage.Malformed(description: "an id in use")
        }
        guard openings.count < Self.maximumChannels, keepers.count < Self.maximumChannels else {
            return refuse(channel: id, "too many channels")
        }
        do throws(VchanError) {
            let isControl = words.port.rawValue == Limits.controlPort
            let opening = PendingOpening(
                loop, try transport.open(to: identity.domain, port: words.port),
                time: isControl ? nil : Self.openingTime
            ) { [unowned self] in
                self.openings[id] = nil
                switch $0 {
                case .success(let handed):
                    var message = DispatchMessage("channel", ["id": "\(id)"])
                    for (key, value) in handed.fields { message.set(key, value) }
                    self.keep(handed.keeper)
                    self.line.send(message, handed.descriptors)
                case .failure(let error): self.refuse(channel: id, error.description)
                }
            }
            openings[id] = opening
            opening.start()
        } catch {
            refuse(channel: id, error.description)
        }
    }

    private func keep(_ keeper: ChannelKeeper?) {
        guard let keeper else { return }
        let number = keeper.pollDescriptor
        do throws(Errno) {
            try loop.watch(number, []) { [unowned self] _ in
                self.loop.unwatch(number)
                self.keepers[number] = nil
            }
            keepers[number] = keeper
        } catch {
            // It goes at once, and the daemon sees the end of its channel.
            log.warning("a channel cannot be kept", ["reason": error.description])
        }
    }

    private func refuse(channel id: UInt32, _ reason: String) {
        line.send(DispatchMessage("channel", ["id": "\(id)", "reason": reason]))
    }

    /// The number of a domain that has ended may become another one's: nothing that was given for
    /// it is asked for in its name again.
    func domainsHaveChanged(_ watch: borrowing DomainWatch) {
        guard !watch.isAlive(identity.domain) else { return }
        line.close()
        ended("its domain has ended")
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
