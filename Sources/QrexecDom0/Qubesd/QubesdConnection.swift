import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// One client of qubesd: reads a request to its end, then writes the answer or a stream of events.
final class QubesdConnection {
    private enum State {
        case reading
        /// The manager works on it.
        case waiting
        case answering
        /// Hears of one qube's events, or of all.
        case listening(subject: String?)
        case closed
    }

    private unowned let server: QubesdServer
    private let socket: Descriptor
    private let allowsInternal: Bool
    private var state = State.reading
    private var request: [UInt8] = []
    private var output: [UInt8] = []
    private var deadline: EventLoop.Timer?

    init(server: QubesdServer, socket: consuming Descriptor, allowsInternal: Bool) {
        self.server = server
        self.socket = socket
        self.allowsInternal = allowsInternal
    }

    func begin() {
        do throws(Errno) {
            try server.loop.watch(socket.number, .readable) { [unowned self] readiness in
                self.handle(readiness)
            }
            extendDeadline()
        } catch {
            state = .closed
            server.forget(self)
        }
    }

    func close() {
        if case .closed = state { return }
        state = .closed
        if let deadline { server.loop.cancel(deadline) }
        server.loop.unwatch(socket.number)
        server.forget(self)
    }

    private func extendDeadline() {
        if let deadline { server.loop.cancel(deadline) }
        deadline = server.loop.schedule(after: QubesdServer.patience) { [weak self] in
            self?.close()
        }
    }

    private func handle(_ readiness: Readiness) {
        switch state {
        case .reading: read()
        case .waiting:
            // The client is gone, but what it asked for goes on: the answer is dropped.
            if readiness.contains(.hangup) { close() }
        case .answering, .listening:
            if readiness.contains(.hangup) { return close() }
            flush()
        case .closed: break
        }
    }

    private func read() {
        var chunk = [UInt8](repeating: 0, count: 16384)
        do throws(Errno) {
            let count = try UnixSocket.receive(socket.number, into: &chunk)
            if count > 0 {
                request.append(contentsOf: chunk[..<count])
                if request.count > QubesdRequest.maximumLength {
                    answer(.exception(.protocolError("request too long")))
                }
                return
            }
        } catch .resourceTemporarilyUnavailable {
            return
        } catch {
            return close()
        }
        state = .waiting
        server.loop.setInterest(socket.number, [])
        if let deadline { server.loop.cancel(deadline) }
        deadline = nil
        dispatch()
    }

    private func dispatch() {
        do throws(QubesdRequest.Invalid) {
            let request = try QubesdRequest(self.request)
            self.request = []
            do throws(QubesdError) {
                try perform(request)
            } catch {
                answer(.exception(error))
            }
        } catch {
            server.log.warning("qubesd: bad request", ["reason": error.reason])
            answer(.exception(.protocolError(error.reason)))
        }
    }

    /// Answers now, or when the manager is done.
    private func perform(_ request: QubesdRequest) throws(QubesdError) {
        if request.method.hasPrefix("internal."), !allowsInternal {
            throw .notAllowed("internal methods are for dom0's own socket")
        }
        let manager = server.manager
        let done: QubeManager.Completion = { [weak self] error in
            self?.answer(error.map { .exception($0) } ?? .ok([]))
        }
        switch request.method {
        case "admin.vm.Start":
            manager.start(try server.qube(request.destination).name, completion: done)
        case "admin.vm.Shutdown":
            manager.shutdown(try server.qube(request.destination).name, completion: done)
        case "admin.vm.Kill":
            manager.kill(try server.qube(request.destination).name, completion: done)
        case "admin.vm.CreateDisposable":
            try createDisposable(request)
        case "admin.vm.feature.Set":
            let value = String(decoding: request.payload, as: UTF8.self)
            try manager.setFeature(
                request.argument, to: value, of: server.qube(request.destination).name)
            answer(.ok([]))
        case "admin.Events":
            let qube = try server.qube(request.destination)
            listen(subject: qube.type == .admin ? nil : qube.name)
        default:
            let text = try QubesdQueries.answer(request, server)
            answer(.ok(Array(text.utf8)))
        }
    }

    private func createDisposable(_ request: QubesdRequest) throws(QubesdError) {
        let wantsUUID = request.payload == Array("uuid".utf8)
        guard wantsUUID || request.payload.isEmpty else {
            throw .protocolError("admin.vm.CreateDisposable: the payload is 'uuid' or nothing")
        }
        guard ["", "preload"].contains(request.argument) else {
            throw .protocolError("admin.vm.CreateDisposable: the argument is 'preload' or nothing")
        }
        let destination = try server.qube(request.destination)
        let answered = { [weak self] (result: Result<QubeRecord, QubesdError>) -> Void in
            switch result {
            case .success(let qube):
                self?.answer(.ok(Array((wantsUUID ? "uuid:\(qube.uuid)" : qube.name).utf8)))
            case .failure(let error):
                self?.answer(.exception(error))
            }
        }
        if request.argument == "preload" {
            server.manager.preloadDisposable(of: destination.name, completion: answered)
            return
        }
        let peer = try? UnixSocket.peer(of: socket)
        let wanted = DisposableRequest(
            // dom0 as the destination means the caller's own default.
            template: destination.type == .admin ? nil : destination.name,
            caller: request.source, requester: peer?.pid)
        server.manager.createDisposable(wanted, completion: answered)
    }

    // MARK: Output

    private func answer(_ response: QubesdResponse) {
        if case .closed = state { return }
        state = .answering
        output = response.bytes
        extendDeadline()
        flush()
    }

    private func listen(subject: String?) {
        state = .listening(subject: subject)
        output = QubesdResponse.eventsHeader
        tell(QubeEvent(subject: "", name: "connection-established"))
    }

    /// Sends an event when this client listens to it.
    func tell(_ event: QubeEvent) {
        guard case .listening(let subject) = state else { return }
        if let subject, !event.subject.isEmpty, event.subject != subject { return }
        output += QubesdResponse.encode(event)
        if output.count > QubesdServer.maximumBacklog {
            server.log.warning("qubesd: a listener is too slow and is closed")
            return close()
        }
        flush()
    }

    private func flush() {
        while !output.isEmpty {
            do throws(Errno) {
                let count = try UnixSocket.send(socket.number, output.span)
                output.removeFirst(count)
            } catch .resourceTemporarilyUnavailable {
                return server.loop.setInterest(socket.number, .writable)
            } catch {
                return close()
            }
        }
        server.loop.setInterest(socket.number, [])
        if case .answering = state { close() }
    }
}
