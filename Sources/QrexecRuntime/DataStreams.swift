import LinuxSystem
import QrexecProtocol
import SystemPackage

/// A local stream whose bytes go to the peer.
final class DataSource {
    enum State {
        case open
        /// Nothing more comes; the peer has not been told for lack of room.
        case endToSend
        case ended
    }

    let type: MessageType
    private(set) var isSocket: Bool
    private var descriptor: Descriptor?
    var state: State
    /// Whether a read may give something; the first one is always tried.
    var isReady = true
    /// Goes out before anything from the descriptor.
    var prefix: [UInt8] = []
    /// Gets a copy of everything that goes out, line by line.
    var copy: LineCollector?

    init(type: MessageType, taking descriptor: consuming Descriptor, isSocket: Bool) {
        self.type = type
        self.isSocket = isSocket
        self.descriptor = consume descriptor
        state = .open
    }

    init(ended type: MessageType) {
        self.type = type
        isSocket = false
        state = .endToSend
    }

    var number: Int32? { descriptor?.number }
    var isEnded: Bool { state == .ended }
    /// Whether it may have something for which the ring has no room.
    var waitsForRoom: Bool { state == .open && isReady }

    /// Reads another socket from now on.
    func replace(with socket: consuming Descriptor) {
        descriptor = consume socket
        isSocket = true
        state = .open
        isReady = true
    }

    /// Reads up to a number of bytes.
    func read(limit: Int) throws(Errno) -> [UInt8] {
        guard let number else { return [] }
        var bytes = [UInt8](repeating: 0, count: limit)
        let count =
            isSocket
            ? try UnixSocket.receive(number, into: &bytes)
            : try descriptor!.read(into: &bytes)
        bytes.removeLast(limit - count)
        return bytes
    }

    func close() {
        _ = descriptor.take()
        copy?.flush()
    }
}

/// A local stream that takes the peer's bytes.
final class DataSink {
    private var descriptor: Descriptor?
    private(set) var isSocket = false
    private(set) var filter = false
    private(set) var isClosed = false
    /// Whether a write may be taken; the first one is always tried.
    var isReady = true
    /// The peer's end of the stream came.
    var sawEnd = false
    /// Bytes that passed the filter and wait for the terminal.
    var filtered: [UInt8] = []

    func attach(_ descriptor: consuming Descriptor, isSocket: Bool, filter: Bool) {
        self.descriptor = consume descriptor
        self.isSocket = isSocket
        self.filter = filter
    }

    /// Where to write; nil before and after.
    var number: Int32? { isClosed ? nil : descriptor?.number }

    /// A second descriptor of its socket, whose other direction may be of use even when this one
    /// has ended; nil when it is none or gone.
    func duplicateSocket() -> Descriptor? {
        guard isSocket, descriptor != nil else { return nil }
        return try? descriptor!.duplicate()
    }

    /// Nothing more is written: the reader sees the end, even where others hold the socket. A
    /// socket's other direction stays as it is until `release`.
    func endWriting() {
        if isSocket, let number { UnixSocket.shutdown(number, writing: true) }
        isClosed = true
        if !isSocket { release() }
    }

    func close() {
        endWriting()
        release()
    }

    func release() { _ = descriptor.take() }

    enum Writing { case done, wouldBlock, failed }

    /// Writes what passed the filter. After a failure the sink is to be closed by its pump, which
    /// watches the descriptor.
    func writeFiltered() -> Writing {
        do throws(Errno) {
            while !filtered.isEmpty, descriptor != nil {
                let bytes = filtered
                filtered.removeFirst(try descriptor!.write(bytes.span))
            }
            return .done
        } catch .resourceTemporarilyUnavailable {
            isReady = false
            return .wouldBlock
        } catch {
            filtered = []
            return .failed
        }
    }
}

/// What a terminal may see of a peer's output (section 7).
enum TerminalFilter {
    /// Printable ASCII, TAB, LF, CR, BS and BEL pass; everything else becomes `_`.
    static func safe(_ byte: UInt8) -> UInt8 {
        switch byte {
        case 0x20...0x7E, 0x09, 0x0A, 0x0D, 0x08, 0x07: byte
        default: 0x5F
        }
    }
}
