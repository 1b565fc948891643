import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// The old form of `qrexec-policy-exec`: decides a call and, if it is allowed, connects the waiting
/// caller with its target (section 13.1). Daemons of ours connect calls themselves.
struct PolicyExecution {
    /// The waiting call: the caller's domain number, its name, and the number of its request.
    let domain: String
    let source: String
    let identifier: String
    let service: String
    let client: String
    let qubesd: QubesdCall

    struct Failed: Error, CustomStringConvertible {
        let description: String
    }

    /// Nanoseconds for a qube to start.
    private static let startTime = seconds(300)
    private static let callTime = seconds(60)

    init(
        domain: String, source: String, identifier: String, service: String, client: String,
        loop: EventLoop
    ) throws(Failed) {
        guard let number = UInt16(domain), number > 0, String(number) == domain else {
            throw Failed(description: "DOMID must be a domain number above 0, not '\(domain)'")
        }
        let isPlain = identifier.utf8.allSatisfy {
            isServiceCharacter($0) || $0 == UInt8(ascii: " ")
        }
        guard isPlain, (1...31).contains(identifier.utf8.count) else {
            throw Failed(
                description: "IDENT must be 1 to 31 letters, digits, blanks, '-', '.' and '_'")
        }
        self.domain = domain
        self.source = source
        self.identifier = identifier
        self.service = service
        self.client = client
        qubesd = QubesdCall(loop: loop)
    }

    /// Connects an allowed call.
    ///
    /// - Returns: the exit status of the program that connects.
    func execute(_ permission: PolicyAnswer.Permission) throws(Failed) -> Int32 {
        let called = permission.service ?? service
        let full = called.contains("+") ? called : called + "+"
        let caller = permission.policySource ?? source
        if permission.target == "dom0" {
            let requested = permission.requestedTarget
            let isKeyword = requested.hasPrefix("@")
            let target = isKeyword ? "keyword \(requested.dropFirst())" : "name \(requested)"
            return try connect("dom0", "QUBESRPC \(full) \(caller) \(target)", waits: false)
        }
        let command = "\(permission.user):QUBESRPC \(full) \(caller)"
        if permission.target.hasPrefix("@dispvm:") {
            let base = permission.targetUUID ?? permission.target
            return try inDisposable(of: String(base.dropFirst("@dispvm:".count)), command)
        }
        if permission.autostart { try start(permission.target) }
        return try connect(permission.targetUUID ?? permission.target, command, waits: false)
    }

    private func inDisposable(of base: String, _ command: String) throws(Failed) -> Int32 {
        let name = String(
            decoding: try ask("admin.vm.CreateDisposable", base, time: Self.callTime),
            as: UTF8.self)
        guard !name.isEmpty, name.utf8.allSatisfy(isServiceCharacter) else {
            throw Failed(description: "qubesd named no disposable")
        }
        do throws(Failed) {
            try start(name)
            let status = try connect(name, command, waits: true)
            _ = try? ask("admin.vm.Kill", name, time: Self.callTime)
            return status
        } catch {
            // It goes away in any case: nobody else knows of it.
            _ = try? ask("admin.vm.Kill", name, time: Self.callTime)
            throw error
        }
    }

    private func start(_ qube: String) throws(Failed) {
        _ = try ask("admin.vm.Start", qube, time: Self.startTime)
    }

    private func ask(
        _ method: String, _ qube: String, time: UInt64
    ) throws(Failed) -> [UInt8] {
        var result: Result<[UInt8], QubesdCall.Failure>?
        qubesd.call(method, destination: qube, timeout: time) { [loop = qubesd.loop] in
            result = $0
            loop.stop()
        }
        do throws(Errno) {
            if result == nil { try qubesd.loop.run() }
        } catch {
            throw Failed(description: "\(method) of \(qube): \(error)")
        }
        switch result {
        case .success(let answer): return answer
        case .failure(.refused(type: "QubesVMNotHaltedError", text: _)): return []
        case .failure(let failure): throw Failed(description: "\(method) of \(qube): \(failure)")
        case nil: throw Failed(description: "\(method) of \(qube): interrupted")
        }
    }

    private func connect(
        _ target: String, _ command: String, waits: Bool
    ) throws(Failed) -> Int32 {
        var arguments = [client, "-d", target, "-c", "\(identifier),\(source),\(domain)"]
        if waits { arguments.append("-W") }
        do throws(Errno) {
            let child = try ChildProcess.spawn(
                SpawnRequest(
                    path: client, arguments: arguments + ["--", command],
                    environment: CurrentProcess.environment))
            return try child.reap()
        } catch {
            throw Failed(description: "\(client): \(error)")
        }
    }
}
