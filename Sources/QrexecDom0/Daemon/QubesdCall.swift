import LinuxSystem
import QrexecRuntime

/// Calls of qubesd's socket protocol (specification, section 14) that the daemon makes.
struct QubesdCall {
    static let defaultPath = "/var/run/qubesd.sock"
    /// Upstream's limit of an answer.
    static let maximumAnswer = 65534

    enum Failure: Error, CustomStringConvertible {
        case exchange(Exchange.Failure)
        /// qubesd's own error: its class and text.
        case refused(type: String, text: String)
        case malformed

        var description: String {
            switch self {
            case .exchange(let failure): "qubesd: \(failure)"
            case .refused(let type, let text): "qubesd: \(type): \(text)"
            case .malformed: "qubesd: an answer that is none"
            }
        }
    }

    let loop: EventLoop
    var path = CurrentProcess.variable("QUBESD_SOCKET") ?? defaultPath

    /// Calls `method` on `destination`.
    ///
    /// - Parameter timeout: nanoseconds; starting a qube takes as long as it takes.
    func call(
        _ method: String, argument: String = "", destination: String, payload: [UInt8] = [],
        timeout: UInt64, completion: @escaping (Result<[UInt8], Failure>) -> Void
    ) {
        let isKeyword = destination.hasPrefix("@")
        let name = isKeyword ? String(destination.dropFirst()) : destination
        let head = "\(method)+\(argument) dom0 \(isKeyword ? "keyword" : "name") \(name)"
        Exchange.ask(
            loop: loop, path: path, request: Array(head.utf8) + [0] + payload, shutsDown: true,
            limit: Self.maximumAnswer, timeout: timeout
        ) { result in
            switch result {
            case .failure(let failure): completion(.failure(.exchange(failure)))
            case .success(let answer): completion(Self.parse(answer))
            }
        }
    }

    static func parse(_ answer: [UInt8]) -> Result<[UInt8], Failure> {
        if answer.starts(with: [0x30, 0]) { return .success(Array(answer.dropFirst(2))) }
        guard answer.starts(with: [0x32, 0]) else { return .failure(.malformed) }
        let fields = answer.dropFirst(2).split(separator: 0, omittingEmptySubsequences: false)
            .map { String(decoding: $0, as: UTF8.self) }
        guard fields.count >= 3 else { return .failure(.malformed) }
        // class, traceback, format, arguments…
        let arguments = fields.dropFirst(3).filter { !$0.isEmpty }.joined(separator: ", ")
        let text = arguments.isEmpty ? fields[2] : "\(fields[2]) (\(arguments))"
        return .failure(.refused(type: fields[0], text: LogText.line(text)))
    }
}
