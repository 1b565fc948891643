import LinuxSystem
import QrexecProtocol
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
        let request = QubesdRequest.encode(
            method, argument: argument, destination: destination, payload: payload)
        Exchange.ask(
            loop: loop, path: path, request: request, shutsDown: true,
            limit: Self.maximumAnswer, timeout: timeout
        ) { result in
            switch result {
            case .failure(let failure): completion(.failure(.exchange(failure)))
            case .success(let answer): completion(Self.parse(answer))
            }
        }
    }

    static func parse(_ answer: [UInt8]) -> Result<[UInt8], Failure> {
        switch try? QubesdResponse(answer) {
        case .ok(let data)?: .success(data)
        case .exception(let error)?:
            .failure(.refused(type: error.type, text: LogText.line(error.message)))
        case nil: .failure(.malformed)
        }
    }
}
