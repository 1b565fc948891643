import LinuxSystem
public import QrexecProtocol
public import SystemPackage

/// Calls of the qube manager's protocol (specification 14) by programs that have time to wait.
public struct QubesdClient: Sendable {
    /// Why there was no result.
    public enum Failure: Error, Equatable, Sendable {
        /// The manager's own error.
        case refused(QubesdError)
        /// Nobody listens at the socket, or may not be spoken to.
        case unreachable(Errno)
        /// There was no answer, or one that is none.
        case noAnswer(String)
    }

    /// The manager's socket.
    public let path: String
    /// Nanoseconds that a call may take; nil waits as long as it takes.
    public let timeout: UInt64?

    private static let maximumAnswer = 16 << 20

    /// - Parameters:
    ///   - path: nil is the one that the environment names (`QUBESD_SOCKET`), or the usual one.
    ///   - timeout: starting a qube takes its time.
    public init(path: String? = nil, timeout: UInt64? = seconds(180)) {
        self.path = path ?? CurrentProcess.variable("QUBESD_SOCKET") ?? "/var/run/qubesd.sock"
        self.timeout = timeout
    }

    /// Calls a method of a qube and returns the data of its answer.
    ///
    /// - Parameters:
    ///   - source: who wants it.
    ///   - payload: behind the header.
    public func call(
        _ method: String, argument: String = "", from source: String = "dom0",
        on destination: String, payload: [UInt8] = []
    ) throws(Failure) -> String {
        let request = QubesdRequest.encode(
            method, argument: argument, source: source, destination: destination,
            payload: payload)
        let answer: [UInt8]
        do throws(Errno) {
            answer = try TimedExchange.ask(
                path, request, limit: Self.maximumAnswer, timeout: timeout)
        } catch {
            throw Self.failure(error)
        }
        return try Self.data(of: answer)
    }

    private static func failure(_ error: Errno) -> Failure {
        switch error {
        case .noSuchFileOrDirectory, .connectionRefused, .permissionDenied: .unreachable(error)
        default: .noAnswer(error.description)
        }
    }

    static func data(of answer: [UInt8]) throws(Failure) -> String {
        let response: QubesdResponse
        do throws(QubesdResponse.Invalid) { response = try QubesdResponse(answer) } catch {
            throw .noAnswer(error.reason)
        }
        switch response {
        case .ok(let data): return String(decoding: data, as: UTF8.self)
        case .exception(let error):
            throw .refused(
                QubesdError(
                    type: LogText.line(error.type), message: LogText.line(error.message)))
        }
    }

    /// A feature of a qube, or of its template.
    ///
    /// - Returns: its value, nil when it is not set, and whether anybody could tell.
    public func feature(_ name: String, of qube: String) -> (value: String?, isKnown: Bool) {
        for method in ["admin.vm.feature.CheckWithTemplate", "admin.vm.feature.Get"] {
            do throws(Failure) {
                return (try call(method, argument: name, on: qube), true)
            } catch .refused(let error) where error.type == "QubesFeatureNotFoundError" {
                return (nil, true)
            } catch .refused(let error) where error.type == "QubesNoSuchMethodError" {
                continue
            } catch {
                break
            }
        }
        return (nil, false)
    }

    /// Follows events until the manager ends the connection.
    ///
    /// - Parameter handle: told the fields of each event: subject, name, keys and values.
    public func follow(_ handle: ([String]) -> Void) throws(Failure) {
        do throws(Errno) {
            let request = QubesdRequest.encode("admin.Events", destination: "dom0")
            let socket = try TimedExchange.begin(path, request, deadline: .max)
            var pending: [UInt8] = []
            var isFirst = true
            while true {
                let more = try BoundedRead.some(
                    of: socket.number, limit: Self.maximumAnswer - pending.count, deadline: .max)
                if more.isEmpty { return }
                pending += more
                if isFirst {
                    guard pending.count >= QubesdResponse.eventsHeader.count else { continue }
                    pending.removeFirst(QubesdResponse.eventsHeader.count)
                    isFirst = false
                }
                while let event = Self.event(&pending) { handle(event) }
            }
        } catch {
            throw Self.failure(error)
        }
    }

    /// Takes a whole event: subject, name, keys and values, and an empty field at its end.
    static func event(_ bytes: inout [UInt8]) -> [String]? {
        var fields: [String] = []
        var start = 0
        while let end = bytes[start...].firstIndex(of: 0) {
            // A subject may be empty; a key is not.
            if start == end, fields.count >= 2, fields.count % 2 == 0 {
                bytes.removeFirst(end + 1)
                return fields
            }
            fields.append(String(decoding: bytes[start..<end], as: UTF8.self))
            start = end + 1
        }
        return nil
    }
}

extension QubesdClient.Failure {
    /// For a person: the manager's words, or what is wrong with the way to it.
    public var text: String {
        switch self {
        case .refused(let error): error.message.isEmpty ? error.type : error.message
        case .unreachable(let error): "qubesd: it cannot be reached: \(error)"
        case .noAnswer(let reason): "qubesd: it does not answer: \(reason)"
        }
    }
}
