import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// Carries a text from one qube's clipboard to another's, in dom0 (specification 17).
struct ClipboardManager {
    /// Why nothing was carried, and the exit status for it.
    struct Failure: Error, Equatable {
        var status: Int32 = 1
        var text: String
    }

    var store = ClipboardStore()
    var qubesd = QubesdClient(timeout: 5_000_000_000)
    /// Path of `qrexec-client`; nil where only this machine's own clipboard is used.
    var client: String?
    /// Where the daemons' sockets are.
    var sockets = "/var/run/qubes"
    /// The policy's service that only answers (specification 13.2).
    var evaluation = ["/etc/qubes-rpc/policy.EvalSimple", "/run/qubes/policy.EvalSimple"]
    /// Bytes, where the qube has no feature that says otherwise.
    var standardLimit = ClipboardText.standardLimit
    /// Seconds after which a text is wiped; 0 keeps it until it is pasted.
    var timeout = 300

    /// Nanoseconds that a qube has for its answer.
    private static let patience: UInt64 = 10_000_000_000
    private static let dom0 = "dom0"

    // MARK: Copy

    /// Takes the text in a qube's clipboard.
    ///
    /// - Returns: the request, whose text is there now.
    func copy(from qube: String) throws(Failure) -> ClipboardStore.Request {
        let qube = try check(qube)
        let limit = limit(of: qube)
        let request = try system { () throws(Errno) in try store.begin() }
        let text: [UInt8]
        do throws(Failure) {
            text = try read(qube, limit: limit)
        } catch {
            try fail(request, qube, .other, limit)
            throw error
        }
        do throws(ClipboardText.Refusal) {
            try ClipboardText.check(text, limit: limit)
        } catch {
            let kind: ClipboardStore.Failure =
                switch error {
                case .tooLarge: .oversized
                case .notText: .malformed
                case .empty: .other
                }
            try fail(request, qube, kind, limit)
            throw Failure(text: "the clipboard of \(qube) \(error.text). Nothing was copied.")
        }
        let contents = ClipboardStore.Contents(text: text, source: qube, request: request)
        guard try system({ () throws(Errno) in try store.store(contents, limit: limit) }) else {
            throw Failure(text: "something newer came while \(qube) was asked; nothing was copied")
        }
        return request
    }

    private func fail(
        _ request: ClipboardStore.Request, _ qube: String, _ failure: ClipboardStore.Failure,
        _ limit: Int
    ) throws(Failure) {
        try system { () throws(Errno) in
            try store.fail(request, source: qube, failure, limit: limit)
        }
    }

    private func read(_ qube: String, limit: Int) throws(Failure) -> [UInt8] {
        if qube == Self.dom0 {
            do throws(FileProblem) {
                return try OwnClipboard.present.read(limit: limit)
            } catch {
                throw Failure(text: error.line)
            }
        }
        let result = try call(qube, "qubes.ClipboardCopy", limit: limit, input: [])
        // More than the limit: the call was ended, and that it was more is all that counts.
        if result.output.count > limit { return result.output }
        try check(result.status, qube, "qubes.ClipboardCopy")
        return result.output
    }

    // MARK: Paste

    /// Gives the text to a qube, if the policy lets its source's texts go there; then it is gone.
    ///
    /// - Returns: the request whose text is there again because it reached nobody, with why.
    func paste(to qube: String) throws(Failure) -> (back: ClipboardStore.Request, why: String)? {
        let qube = try check(qube)
        guard let contents = try present() else {
            throw Failure(text: "the clipboard is empty; copy first")
        }
        try permit(from: contents.source, to: qube)
        guard try system({ () throws(Errno) in try store.take(contents) }) else {
            throw Failure(text: "the clipboard has changed in the meantime; nothing was pasted")
        }
        do throws(Failure) {
            try deliver(contents.text, to: qube)
            return nil
        } catch {
            guard error.status != 1 else { throw error }
            // The service was not reached: the text can be pasted again.
            let limit = max(standardLimit, contents.text.count)
            let isBack = try system { () throws(Errno) in
                try store.putBack(contents, limit: limit)
            }
            guard isBack else { throw Failure(text: error.text) }
            return (contents.request, error.text)
        }
    }

    private func permit(from source: String, to target: String) throws(Failure) {
        let name = target == Self.dom0 ? "@adminvm" : target
        let question =
            Array("policy.EvalSimple+qubes.ClipboardPaste dom0 name dom0".utf8) + [0]
            + Array(source.utf8) + [0] + Array(name.utf8)
        let answer: [UInt8]
        do throws(Errno) {
            let path = evaluation.first { (try? FileStatus.kind(of: $0)) == .socket }
            guard let path else { throw .noSuchFileOrDirectory }
            answer = try TimedExchange.ask(
                path, question, limit: 4096, timeout: Self.patience)
        } catch {
            throw Failure(text: "the policy cannot be asked: \(error.message). Nothing was pasted.")
        }
        guard answer.elementsEqual("result=allow\n".utf8) else {
            throw Failure(
                status: 126,
                text: "the policy does not let texts of \(source) go to \(target) "
                    + "(qubes.ClipboardPaste); the text is still there")
        }
    }

    private func deliver(_ text: [UInt8], to qube: String) throws(Failure) {
        if qube == Self.dom0 {
            do throws(FileProblem) {
                return try OwnClipboard.present.set(text)
            } catch {
                throw Failure(status: 125, text: error.line)
            }
        }
        let result = try call(qube, "qubes.ClipboardPaste", limit: 0, input: text)
        try check(result.status, qube, "qubes.ClipboardPaste")
    }

    // MARK: Looking and clearing

    /// The text that is there and not too old.
    func present() throws(Failure) -> ClipboardStore.Contents? {
        guard let contents = try system({ () throws(Errno) in try store.read() }) else {
            return nil
        }
        if timeout > 0, age(contents.request) >= timeout {
            try system { () throws(Errno) in try store.expire(contents.request) }
            return nil
        }
        return contents
    }

    /// Seconds since a request.
    func age(_ request: ClipboardStore.Request) -> Int {
        Int(ClipboardStore.now &- request) / 1000
    }

    func clear() throws(Failure) {
        _ = try system { () throws(Errno) in try store.begin() }
    }

    // MARK: Qubes

    /// The name of a qube that can be asked.
    private func check(_ qube: String) throws(Failure) -> String {
        if qube == Self.dom0 || qube == "@adminvm" { return Self.dom0 }
        guard Names.isDomainName(qube) else {
            throw Failure(text: "'\(displayable(qube.utf8))' is no name of a qube")
        }
        // Nobody looks at a qube that does not run: it is not started for this.
        guard (try? FileStatus.kind(of: "\(sockets)/qrexec.\(qube)")) == .socket else {
            throw Failure(text: "\(qube) does not run, or there is no such qube")
        }
        return qube
    }

    /// Bytes of text that a qube may send.
    func limit(of qube: String) -> Int {
        let feature = qubesd.feature("gui-max-clipboard-size", of: qube).value
        return feature.flatMap { ClipboardText.limit($0) } ?? standardLimit
    }

    private func call(
        _ qube: String, _ service: String, limit: Int, input: [UInt8]
    ) throws(Failure) -> BoundedProgram.Result {
        guard let client else { throw Failure(text: "qrexec-client is not installed") }
        // What the qube says is shown only without what a terminal cannot be trusted with.
        let command = [client, "-T", "-d", qube, "--", "DEFAULT:QUBESRPC \(service) dom0"]
        var request = SpawnRequest(
            path: client, arguments: command, environment: CurrentProcess.environment)
        return try system { () throws(Errno) in
            let file = try Descriptor.memoryFile(named: "clipboard")
            try file.writeAll(input)
            try file.seek(0, .start)
            return try BoundedProgram.run(
                &request, input: file.number, errors: 2, limit: limit,
                deadline: CurrentProcess.now + Self.patience)
        }
    }

    private func check(_ status: Int32?, _ qube: String, _ service: String) throws(Failure) {
        switch status {
        case 0: return
        case nil: throw Failure(text: "\(qube) does not answer")
        case 127: throw Failure(status: 127, text: "\(qube) has no service \(service)")
        case 125, 126:
            throw Failure(status: status!, text: "\(service) cannot be started in \(qube)")
        default:
            throw Failure(text: "\(service) of \(qube) failed with status \(status!)")
        }
    }

    private func system<Result>(
        _ body: () throws(Errno) -> Result
    ) throws(Failure) -> Result {
        do throws(Errno) { return try body() } catch {
            throw Failure(text: "\(store.directory): \(error.message)")
        }
    }
}
