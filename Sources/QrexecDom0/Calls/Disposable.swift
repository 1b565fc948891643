import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// A disposable that was made for one call, and is killed when that is over, whatever ends it
/// (specification, section 18).
final class Disposable {
    struct Unmade: Error { let text: String }

    private static let createTime = seconds(180)
    private static let killTime = seconds(60)
    /// Between two attempts to kill it while qubesd is away.
    private static let killInterval = seconds(1)
    private static let killAttempts = 60

    let name: String
    private let directory: TargetDirectory
    private let log: Log
    private var isRemoved = false
    private var connection: Descriptor?

    /// The call is over, and it is being killed.
    var onRemoved: () -> Void = {}

    private init(_ name: String, in directory: TargetDirectory, log: Log) {
        self.name = name
        self.directory = directory
        self.log = log
    }

    /// Makes one; it is not started yet.
    ///
    /// - Parameter template: its name, or `uuid:UUID`, in which case the new one is known by its
    ///   uuid too.
    static func make(
        from template: String, in directory: TargetDirectory, log: Log,
        completion: @escaping (Result<Disposable, Unmade>) -> Void
    ) {
        let payload = template.hasPrefix("uuid:") ? Array("uuid".utf8) : []
        directory.qubesd.call(
            "admin.vm.CreateDisposable", destination: template, payload: payload,
            timeout: createTime
        ) { result in
            switch result {
            case .failure(let failure):
                completion(.failure(Unmade(text: "no disposable of \(template): \(failure)")))
            case .success(let bytes):
                let name = String(decoding: bytes, as: UTF8.self)
                guard (1...63).contains(bytes.count), bytes.allSatisfy(Names.isTargetCharacter)
                else {
                    let text = LogText.value(name)
                    return completion(
                        .failure(Unmade(text: "qubesd named the new disposable \(text)")))
                }
                completion(.success(Disposable(name, in: directory, log: log)))
            }
        }
    }

    /// Removes it when the connection to its daemon hangs up, which is the end of the call.
    func endWith(_ held: HeldDescriptor) throws(Errno) {
        guard let open = held.number else { throw .badFileDescriptor }
        let copy = try Descriptor.duplicate(of: open)
        let number = copy.number
        connection = consume copy
        // Holds this object until then.
        try directory.loop.watch(number, []) { _ in self.remove() }
    }

    /// Removes it also when its daemon's answer is found on the connection, or comes: nobody else is
    /// left to take it.
    func removeAtAnswer() {
        guard let number = connection?.number else { return }
        directory.loop.setInterest(number, .readable)
    }

    /// Kills it; once.
    func remove() {
        guard !isRemoved else { return }
        isRemoved = true
        if let taken = connection.take() { directory.loop.unwatch(taken.number) }
        kill(attempts: Self.killAttempts)
        let handler = onRemoved
        onRemoved = {}
        handler()
    }

    private func kill(attempts: Int) {
        directory.qubesd.call("admin.vm.Kill", destination: name, timeout: Self.killTime) {
            [self] result in
            guard case .failure(let failure) = result else { return }
            switch failure {
            // It has ended by itself, and is gone with that.
            case .refused: log.debug("\(name): \(failure)")
            case .exchange, .malformed:
                guard attempts > 0 else {
                    return log.error("the disposable \(name) cannot be killed: \(failure)")
                }
                directory.loop.schedule(after: Self.killInterval) { [self] in
                    kill(attempts: attempts - 1)
                }
            }
        }
    }
}
