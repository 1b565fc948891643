import LinuxSystem
import QrexecDom0
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// Serves the commands of `qubes-lab` on the socket in the state directory, which only the user who
/// started the lab can reach.
final class ControlServer {
    private static let maximumConnections = 256

    private let loop: EventLoop
    private unowned let lab: Lab
    private let socket: Descriptor
    private var connections: [ObjectIdentifier: Connection] = [:]
    /// Called for `down`; its argument is to be told the end.
    var onDown: (@escaping (String, Bool) -> Void) -> Void = { _ in }

    init(loop: EventLoop, lab: Lab, path: String) throws(Errno) {
        self.loop = loop
        self.lab = lab
        try FileStatus.remove(path)
        socket = try UnixSocket.listen(path, .sequencedPacket, mode: 0o600)
        try loop.watch(socket.number, .readable) { [unowned self] _ in self.accept() }
    }

    private func accept() {
        guard let socket = try? UnixSocket.accept(socket) else { return }
        guard connections.count < Self.maximumConnections else { return }
        let connection = Connection(server: self, socket: socket)
        connections[ObjectIdentifier(connection)] = connection
        connection.begin()
    }

    private final class Connection {
        private unowned let server: ControlServer
        private let socket: Descriptor
        private var isClosed = false

        init(server: ControlServer, socket: consuming Descriptor) {
            self.server = server
            self.socket = socket
        }

        func begin() {
            do throws(Errno) {
                try server.loop.watch(socket.number, .readable) { [unowned self] _ in
                    self.receive()
                }
            } catch {
                server.connections[ObjectIdentifier(self)] = nil
            }
        }

        private func close() {
            guard !isClosed else { return }
            isClosed = true
            server.loop.unwatch(socket.number)
            server.connections[ObjectIdentifier(self)] = nil
        }

        private func reply(_ reply: ControlReply) {
            guard !isClosed else { return }
            // A command that does not read its answers loses them.
            _ = try? UnixSocket.send(socket.number, Packet.encode(reply).span)
        }

        private func finish(_ error: QubesdError?) {
            reply(ControlReply(isDone: true, error: error?.message))
            close()
        }

        private func receive() {
            var buffer = [UInt8](repeating: 0, count: 4096)
            let count: Int
            do throws(Errno) {
                count = try UnixSocket.receive(socket.number, into: &buffer)
            } catch .resourceTemporarilyUnavailable {
                return
            } catch {
                return close()
            }
            guard count > 0,
                let request = Packet.decode(ControlRequest.self, Array(buffer[..<count]))
            else { return close() }
            perform(request)
        }

        private func perform(_ request: ControlRequest) {
            let lab = server.lab
            // What was printed before the question can be read after the answer.
            lab.logs.gather()
            switch request {
            case .status:
                reply(ControlReply(isDone: true, status: lab.status))
                close()
            case .down:
                server.onDown { [weak self] text, isDone in
                    self?.reply(ControlReply(isDone: isDone, progress: text))
                }
            case .start(let name):
                lab.start(name) { [weak self] error in
                    let isRunning = error?.type == QubesdError.notHalted(name).type
                    self?.finish(isRunning ? nil : error)
                }
            case .shutdown(let name): lab.shutdown(name) { [weak self] in self?.finish($0) }
            case .kill(let name): lab.kill(name) { [weak self] in self?.finish($0) }
            case .restart(let name): lab.restart(name) { [weak self] in self?.finish($0) }
            case .run(let name): run(name)
            }
        }

        private func run(_ name: String) {
            guard let qube = server.lab[name] else { return finish(.noSuchQube(name)) }
            guard let sandbox = qube.sandbox, sandbox.isReady else {
                return finish(
                    .failed("qube '\(name)' is halted; start it with: qubes-lab start \(name)"))
            }
            reply(ControlReply(isDone: true))
            if !sandbox.serve(socket) {
                let report = InitReport(
                    kind: .failed, value: 125, text: "process 1 of the qube does not answer")
                _ = try? UnixSocket.send(socket.number, report.bytes.span)
            }
            close()
        }
    }
}

extension Lab {
    var status: LabStatus {
        LabStatus(
            state: state.path, policyDirectory: "\(dom0.files.root)/etc/qubes/policy.d",
            qubes: table.map { qube in
                LabStatus.Entry(
                    name: qube.name, domid: qube.domain, type: qube.settings.type,
                    label: qube.settings.label, powerState: qube.powerState.rawValue,
                    inUse: qube.powerState != .halted && !qube.isPooled, root: qube.files.root,
                    agentPID: qube.agent?.pid,
                    daemonPID: qube.settings.isDom0 ? nil : qube.daemon?.pid)
            })
    }

    /// Ends a qube and starts it again.
    func restart(_ name: String, completion: @escaping Completion) {
        guard let qube = self[name] else { return completion(.noSuchQube(name)) }
        if qube.powerState == .halted, !qube.isStopping {
            return start(name, completion: completion)
        }
        qube.stopWaiters.append { [weak self] _ in self?.start(name, completion: completion) }
        stop(qube) { $0.shutDown(graceMilliseconds: Self.grace) }
    }
}
