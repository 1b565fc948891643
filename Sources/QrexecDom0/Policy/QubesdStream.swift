import LinuxSystem
import QrexecRuntime
import SystemPackage

/// One request to qubesd over its socket (section 14), on the event loop.
///
/// Bytes of the answer are handed on as they come; the end, an error, or a deadline ends it.
final class QubesdStream {
    enum End: Equatable {
        /// qubesd closed after its answer.
        case closed
        case failed(String)
    }

    private let loop: EventLoop
    private let socket: Descriptor
    private var pending: [UInt8]
    private var scratch = [UInt8](repeating: 0, count: 65536)
    private var isWatched = false
    private let onBytes: (ArraySlice<UInt8>) -> Void
    private let onEnd: (End) -> Void

    /// Connects and sends a request.
    ///
    /// - Parameter onEnd: called once, never before this returns.
    init(
        _ loop: EventLoop, path: String, request: String,
        onBytes: @escaping (ArraySlice<UInt8>) -> Void, onEnd: @escaping (End) -> Void
    ) throws(Errno) {
        self.loop = loop
        socket = try UnixSocket.connect(path)
        pending = Array(request.utf8) + [0]
        self.onBytes = onBytes
        self.onEnd = onEnd
        try loop.watch(socket.number, [.readable, .writable]) { [unowned self] readiness in
            self.handle(readiness)
        }
        isWatched = true
    }

    deinit { if isWatched { loop.unwatch(socket.number) } }

    /// Takes no more events; nothing is called any more.
    func close() {
        if isWatched { loop.unwatch(socket.number) }
        isWatched = false
    }

    private func end(_ end: End) {
        if !isWatched { return }
        close()
        onEnd(end)
    }

    private func handle(_ readiness: Readiness) {
        if !pending.isEmpty { send() }
        if isWatched, readiness != .writable { receive() }
    }

    private func send() {
        do throws(Errno) {
            let count = try UnixSocket.send(socket.number, pending.span)
            pending.removeFirst(count)
        } catch .resourceTemporarilyUnavailable {
            return
        } catch .brokenPipe {
            // It has answered without reading all, as it does with an error.
            pending = []
        } catch {
            return end(.failed("cannot send: \(error)"))
        }
        if pending.isEmpty {
            UnixSocket.shutdown(socket.number, writing: true)
            loop.setInterest(socket.number, .readable)
        }
    }

    /// Takes what is there without waiting.
    func receive() {
        while isWatched {
            do throws(Errno) {
                let count = try UnixSocket.receive(socket.number, into: &scratch)
                if count == 0 { return end(.closed) }
                onBytes(scratch[..<count])
            } catch .resourceTemporarilyUnavailable {
                return
            } catch {
                return end(.failed("cannot receive: \(error)"))
            }
        }
    }
}
