import Glibc
import LinuxSystem
import QrexecDom0
import QrexecRuntime
import SystemPackage

/// One question to the manager; waits for its answer.
struct AdminClient {
    let path: String

    /// - Parameter payload: behind the header.
    func call(
        _ method: String, argument: String = "", destination: String, payload: [UInt8] = []
    ) throws(HostProblem) -> Result<String, QubesdError> {
        let socket = try connect()
        let answer: [UInt8]
        do throws(Errno) {
            try send(
                QubesdRequest.encode(
                    method, argument: argument, destination: destination, payload: payload),
                to: socket)
            answer = try read(socket)
        } catch {
            throw HostProblem("the manager does not answer: \(error)")
        }
        do throws(QubesdResponse.Invalid) {
            switch try QubesdResponse(answer) {
            case .ok(let data): return .success(String(decoding: data, as: UTF8.self))
            case .exception(let error): return .failure(error)
            }
        } catch {
            throw HostProblem("the manager answers strangely (\(error.reason)); see its log")
        }
    }

    /// Follows events until the manager ends.
    func follow(_ handle: ([String]) -> Void) throws(HostProblem) {
        let socket = try connect()
        do throws(Errno) {
            try send(QubesdRequest.encode("admin.Events", destination: "dom0"), to: socket)
            var pending: [UInt8] = []
            var chunk = [UInt8](repeating: 0, count: 16384)
            var isFirst = true
            while true {
                _ = try poll(socket.number, .readable, milliseconds: -1)
                let count: Int
                do throws(Errno) {
                    count = try UnixSocket.receive(socket.number, into: &chunk)
                } catch .resourceTemporarilyUnavailable {
                    continue
                }
                if count == 0 { return }
                pending += chunk[..<count]
                if isFirst {
                    guard pending.count >= 2 else { continue }
                    pending.removeFirst(2)
                    isFirst = false
                }
                while let event = Self.event(&pending) { handle(event) }
            }
        } catch {
            throw HostProblem("the connection to the manager broke: \(error)")
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

    private func connect() throws(HostProblem) -> Descriptor {
        do throws(Errno) {
            return try UnixSocket.connect(path)
        } catch .noSuchFileOrDirectory, .connectionRefused {
            throw HostProblem(
                "no manager listens at \(path); start it with: systemctl start qubes-xl-manager")
        } catch .permissionDenied {
            throw HostProblem(
                "\(path) is for root and the group qubes: use sudo, or join the group")
        } catch {
            throw HostProblem("cannot reach the manager at \(path): \(error)")
        }
    }

    private func send(_ bytes: [UInt8], to socket: borrowing Descriptor) throws(Errno) {
        var done = 0
        while done < bytes.count {
            do throws(Errno) {
                done += try UnixSocket.send(
                    socket.number, bytes.span.extracting(droppingFirst: done))
            } catch .resourceTemporarilyUnavailable {
                _ = try poll(socket.number, .writable, milliseconds: -1)
            }
        }
        UnixSocket.shutdown(socket.number, writing: true)
    }

    private func read(_ socket: borrowing Descriptor) throws(Errno) -> [UInt8] {
        var answer: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16384)
        while true {
            _ = try poll(socket.number, .readable, milliseconds: -1)
            do throws(Errno) {
                let count = try UnixSocket.receive(socket.number, into: &chunk)
                if count == 0 { return answer }
                answer += chunk[..<count]
            } catch .resourceTemporarilyUnavailable {
                continue
            }
            if answer.count > 16 << 20 { throw .fileTooLarge }
        }
    }
}
