import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// One question to a local service of dom0: connect, send, read the answer to its end. The policy
/// service and qubesd are spoken to so. Never blocks.
final class Exchange {
    enum Failure: Error, CustomStringConvertible {
        case unreachable(path: String, Errno)
        case tooLong(limit: Int)
        case timedOut
        case broken(Errno)

        var description: String {
            switch self {
            case .unreachable(let path, let error): "\(path) cannot be reached: \(error)"
            case .tooLong(let limit): "the answer is longer than \(limit) bytes"
            case .timedOut: "no answer in time"
            case .broken(let error): "the connection broke: \(error)"
            }
        }
    }

    private let loop: EventLoop
    private let path: String
    private let limit: Int
    private var request: [UInt8]
    private var answer: [UInt8] = []
    private var descriptor: Descriptor?
    private var timer: EventLoop.Timer?
    private var chunk = [UInt8](repeating: 0, count: 4096)
    private var completion: (Result<[UInt8], Failure>) -> Void
    private var shutsDown: Bool

    /// - Parameters:
    ///   - shutsDown: whether the end of the request is told by closing the writing direction.
    ///   - limit: bytes of the answer at most.
    ///   - timeout: nanoseconds for all of it.
    private init(
        loop: EventLoop, path: String, request: [UInt8], shutsDown: Bool, limit: Int,
        completion: @escaping (Result<[UInt8], Failure>) -> Void
    ) {
        self.loop = loop
        self.path = path
        self.request = request
        self.shutsDown = shutsDown
        self.limit = limit
        self.completion = completion
    }

    /// Asks; the completion is called once, later. The exchange keeps itself alive until then.
    static func ask(
        loop: EventLoop, path: String, request: [UInt8], shutsDown: Bool, limit: Int,
        timeout: UInt64, completion: @escaping (Result<[UInt8], Failure>) -> Void
    ) {
        let exchange = Exchange(
            loop: loop, path: path, request: request, shutsDown: shutsDown, limit: limit,
            completion: completion)
        exchange.timer = loop.schedule(after: timeout) { exchange.finish(.failure(.timedOut)) }
        exchange.connect()
    }

    /// Time between two attempts while the service's backlog is full.
    private static let retryTime = milliseconds(5)

    private func connect() {
        do throws(Errno) {
            let socket = try UnixSocket.connect(path)
            let number = socket.number
            descriptor = consume socket
            try loop.watch(number, [.readable, .writable]) { self.ready($0) }
        } catch .resourceTemporarilyUnavailable {
            loop.schedule(after: Self.retryTime) { if self.timer != nil { self.connect() } }
        } catch {
            let failure = Failure.unreachable(path: path, error)
            loop.defer { self.finish(.failure(failure)) }
        }
    }

    private func ready(_ readiness: Readiness) {
        guard let number = descriptor?.number else { return }
        do throws(Errno) {
            if !request.isEmpty, readiness.contains(.writable) {
                request.removeFirst(try UnixSocket.send(number, request.span))
                if request.isEmpty {
                    if shutsDown { UnixSocket.shutdown(number, writing: true) }
                    loop.setInterest(number, .readable)
                }
            }
            guard readiness.contains(.readable) || readiness.contains(.hangup) else { return }
            let count = try UnixSocket.receive(number, into: &chunk)
            if count == 0 {
                finish(.success(answer))
            } else if answer.count + count > limit {
                finish(.failure(.tooLong(limit: limit)))
            } else {
                answer += chunk[..<count]
            }
        } catch .resourceTemporarilyUnavailable {
        } catch {
            finish(.failure(.broken(error)))
        }
    }

    private func finish(_ result: Result<[UInt8], Failure>) {
        guard let timer else { return }
        loop.cancel(timer)
        self.timer = nil
        if let taken = descriptor.take() { loop.unwatch(taken.number) }
        let handler = completion
        completion = { _ in }
        handler(result)
    }
}
