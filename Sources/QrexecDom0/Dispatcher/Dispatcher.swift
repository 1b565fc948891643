import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// The dispatcher: does for the confined daemons of all qubes what they may not do themselves.
///
/// It is part of the process that holds the policy. A daemon is bound to its qube when the starter
/// registers it; nothing that it says later changes that. The dispatcher reads no byte of a qube
/// but the words of a request, which it checks again; and over Xen where a server's rings are.
///
/// Over Xen it is the starter's hand that stays: it alone has the devices and the connection to the
/// store, and prepares the two handles that a daemon gets for each channel (`XenHandover`).
final class Dispatcher {
    static let defaultSocket = "/run/qubes/dispatcher.sock"
    /// Registered daemons; further ones are refused.
    static let maximumDaemons = 512

    let loop: EventLoop
    let log: Log
    let authority: PolicyAuthority
    private let path: String
    private let listener: Descriptor
    private var daemons: [ObjectIdentifier: BoundDaemon] = [:]
    private var arriving: [ObjectIdentifier: MessageLine] = [:]
    /// Tells of the ends of domains; made with the first daemon, where the transport needs it.
    private var domains: DomainWatch?

    init(
        _ authority: PolicyAuthority, _ loop: EventLoop, path: String, log: Log
    ) throws(Errno) {
        self.authority = authority
        self.loop = loop
        self.log = log
        self.path = path
        // Only who could do all this anyhow may register a daemon.
        listener = try RequestServer.listen(
            path, kind: .sequencedPacket, mode: 0o600, group: nil)
        try loop.watch(listener.number, .readable) { [unowned self] _ in self.accept() }
    }

    deinit {
        loop.unwatch(listener.number)
        if let number = domains?.pollDescriptor { loop.unwatch(number) }
        try? FileStatus.remove(path)
    }

    private func accept() {
        do throws(Errno) {
            let socket = try UnixSocket.accept(listener)
            let peer = try UnixSocket.peer(of: socket)
            guard peer.uid == 0 || peer.uid == CurrentProcess.effectiveUser else {
                return log.warning("a daemon's registration is refused", ["uid": "\(peer.uid)"])
            }
            guard daemons.count + arriving.count < Self.maximumDaemons else {
                return log.warning("too many daemons: one is refused")
            }
            let line = try MessageLine(
                loop: loop, taking: socket, maximumDescriptors: DispatchMessage.maximumDescriptors)
            let key = ObjectIdentifier(line)
            arriving[key] = line
            line.onMessage = {
                [unowned self] (message, descriptors) throws(DispatchMessage.Malformed) in
                try self.register(message, descriptors, user: peer.uid)
                // The end of the connection tells the starter that it is done.
                self.loop.defer { [weak self] in self?.arriving[key] = nil }
            }
            line.onEnd = { [unowned self] reason in
                self.log.warning("a daemon's registration failed", ["reason": reason])
                self.arriving[key] = nil
            }
        } catch .resourceTemporarilyUnavailable {
        } catch {
            log.warning("a daemon cannot be registered", ["reason": error.description])
        }
    }

    private func register(
        _ message: DispatchMessage, _ descriptors: [HeldDescriptor], user: UInt32
    ) throws(DispatchMessage.Malformed) {
        try message.only(["domain", "name", "uuid", "socket-dir"])
        guard message.word == "register", descriptors.count == 2,
            let domain = DomainID(try message.number("domain")), domain != .dom0
        else { throw DispatchMessage.Malformed(description: "no registration") }
        let name = try message.text("name")
        let uuid = message["uuid"]
        for text in [name, uuid ?? "x"]
        where
            text.isEmpty || !text.utf8.allSatisfy(Names.isTargetCharacter)
        {
            throw DispatchMessage.Malformed(description: "a name with forbidden characters")
        }
        let identity = BoundDaemon.Identity(
            domain: domain, name: name, uuid: uuid, socketDirectory: try message.text("socket-dir"),
            user: user == 0 ? StarterProgram.daemonUser.uid : user, errors: descriptors[1])
        do {
            let transport = try Transport.selected()
            try watchDomains(transport)
            let daemon = try BoundDaemon(
                identity, taking: descriptors[0], of: self, transport: transport)
            daemons[ObjectIdentifier(daemon)] = daemon
            log.info("a daemon is bound to its qube", ["qube": name, "domain": "\(domain)"])
        } catch {
            throw DispatchMessage.Malformed(description: "\(error)")
        }
    }

    private func watchDomains(_ transport: Transport) throws {
        guard domains == nil, let watch = try transport.domainWatch() else { return }
        let number = watch.pollDescriptor
        domains = consume watch
        try loop.watch(number, .readable) { [unowned self] _ in
            guard self.domains?.hasNews() == true else { return }
            for daemon in Array(self.daemons.values) {
                if self.domains != nil { daemon.domainsHaveChanged(self.domains!) }
            }
        }
    }

    /// A daemon is gone.
    func forget(_ daemon: BoundDaemon) {
        loop.defer { [weak self] in self?.daemons[ObjectIdentifier(daemon)] = nil }
    }
}
