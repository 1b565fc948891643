import Glibc
import LinuxSystem
import SystemPackage

/// The system's log (syslog, journal): what services print on standard error goes there too, under
/// the name of their call (section 10).
public final class SystemLog {
    private let path: String
    private var socket: Descriptor?

    /// - Parameter path: the log's datagram socket.
    public init(path: String = "/dev/log") { self.path = path }

    /// A line longer than this is cut in pieces.
    static let maximumLine = 1024
    /// `user.notice`.
    private static let priority = "<13>"

    /// Writes one line; without a system log it goes nowhere.
    func write(tag: String, line: ArraySlice<UInt8>) {
        let safe = line.map { (0x20...0x7E).contains($0) || $0 == 0x09 || $0 >= 0x80 ? $0 : 0x5F }
        let packet = Array("\(Self.priority)\(tag): ".utf8) + safe
        for _ in 0..<2 {
            if socket == nil { socket = try? UnixSocket.connect(path, .datagram) }
            guard let number = socket?.number else { return }
            do throws(Errno) {
                _ = try UnixSocket.send(number, packet.span)
                return
            } catch .resourceTemporarilyUnavailable {
                // A log that does not keep up must not hold a service.
                return
            } catch {
                // It was started again: one more try.
                _ = socket.take()
            }
        }
    }

    /// The log of one service's standard error.
    public func lines(of call: ServiceLogTag) -> LineCollector {
        LineCollector { [self] in write(tag: call.text, line: $0) }
    }
}

/// What a service's lines are marked with: what was called, and by whom.
public struct ServiceLogTag: Sendable {
    let text: String

    public init(descriptor: String, source: String) {
        text = LogText.line("\(descriptor.prefix(128))-\(source)")
    }
}

/// Cuts bytes into lines.
public final class LineCollector {
    private var partial: [UInt8] = []
    private let onLine: (ArraySlice<UInt8>) -> Void

    init(onLine: @escaping (ArraySlice<UInt8>) -> Void) { self.onLine = onLine }

    public func append(_ bytes: ArraySlice<UInt8>) {
        for byte in bytes {
            if byte == 0x0A {
                flush()
            } else {
                partial.append(byte)
                if partial.count == SystemLog.maximumLine { flush() }
            }
        }
    }

    /// A last line without its end.
    public func flush() {
        if !partial.isEmpty { onLine(partial[...]) }
        partial.removeAll(keepingCapacity: true)
    }
}

/// The standard error of a program that nobody else listens to, read to its end.
enum LoggedPipe {
    static func follow(
        _ pipe: consuming Descriptor, in loop: EventLoop, to lines: LineCollector
    ) throws(Errno) {
        try pipe.setNonblocking(true)
        let source = DataSource(type: .dataStderr, taking: pipe, isSocket: false)
        let number = source.number!
        source.copy = lines
        // The loop holds it until the end.
        try loop.watch(number, .readable) { [unowned loop] _ in
            do throws(Errno) {
                let bytes = try source.read(limit: 4096)
                if !bytes.isEmpty {
                    lines.append(bytes[...])
                    return
                }
            } catch .resourceTemporarilyUnavailable {
                return
            } catch {}
            loop.unwatch(number)
            source.close()
        }
    }
}
