import LinuxSystem

/// One end of a vchan: two rings of bytes between two domains that do not trust each other.
///
/// Nothing here waits but the calls that take a deadline. A program with an event loop watches
/// `pollDescriptor` for readability and calls `progress` then; before it sleeps it arms what it
/// waits for (`armForData`, `armForSpace`), which also shows the peer everything done so far. What
/// is written or read between is shown in batches: `flush` shows it at once.
///
/// An error of any call but `tooLarge`, `timedOut` and `closed` means that the channel is closed.
/// A channel that goes away without `close` looks to the peer as if this process had died.
public struct Channel: ~Copyable {
    public enum State: Sendable {
        /// A server without a client, or a client without a server.
        case waiting
        case open
        /// The peer has closed or died, or has broken the protocol. What it wrote before can still
        /// be read.
        case closed
    }

    /// Never goes back: waiting, open, closed.
    public private(set) var state = State.waiting
    /// The peer hung up without an orderly close.
    public private(set) var peerDied = false

    let role: Role
    var rendezvous: Rendezvous
    /// What the rings lie in: shared with the peer, or private before a byte stream.
    private(set) var memory: SharedMemory?
    private var privateMemory: PrivateMemory?
    /// Nil until a client has joined, and for byte streams.
    var page: ControlPage?
    var link = EventLink()
    var stream = StreamLink()
    var spinner = Spinner()
    @usableFromInline var reading = RingEnd.none
    @usableFromInline var writing = RingEnd.none

    /// A server over shared memory.
    ///
    /// - Parameter descriptor: readable when the rendezvous can make a step.
    init(
        server: consuming Rendezvous, descriptor: Int32, memory: consuming SharedMemory
    ) {
        role = .server
        let page = memory.controlPage(.server)
        let (consumed, produced) = page.initialIndices()
        (reading, writing) = memory.rings(.server, consumed: consumed, produced: produced)
        self.page = page
        pollDescriptor = descriptor
        rendezvous = server
        self.memory = consume memory
    }

    /// A client over shared memory.
    init(client: consuming Rendezvous, descriptor: Int32) {
        role = .client
        pollDescriptor = descriptor
        rendezvous = client
    }

    /// A server over a byte stream.
    init(listener: consuming StreamListener, memory: consuming PrivateMemory) {
        role = .server
        pollDescriptor = listener.socket.number
        rendezvous = .streamServer(listener)
        (reading, writing) = memory.rings()
        privateMemory = consume memory
    }

    /// An end of a channel of the C library, which is a byte stream to us.
    init(library: consuming LibraryConnector, role: Role, memory: consuming PrivateMemory) {
        self.role = role
        pollDescriptor = library.pollDescriptor
        rendezvous = .library(library)
        (reading, writing) = memory.rings()
        privateMemory = consume memory
    }

    /// A client over a byte stream.
    init(connector: consuming StreamConnector, memory: consuming PrivateMemory) {
        role = .client
        pollDescriptor = connector.pollDescriptor
        rendezvous = .streamClient(connector)
        (reading, writing) = memory.rings()
        privateMemory = consume memory
    }

    /// The descriptor to watch for readability. Ask again after each `progress`: it changes on the
    /// way from waiting to open. In state closed it has nothing more to say: stop watching it.
    public internal(set) var pollDescriptor: Int32

    /// Bytes that the ring this side reads can hold; 0 until a client is connected.
    public var readCapacity: Int { Int(reading.size) }
    /// Bytes that the ring this side writes can hold; 0 until a client is connected.
    public var writeCapacity: Int { Int(writing.size) }

    /// Does what there is to do when `pollDescriptor` is readable: a bounded amount of work.
    public mutating func progress() throws(VchanError) {
        switch state {
        case .waiting: try closingOnError { channel throws(VchanError) in try channel.meet() }
        case .open:
            if page == nil {
                stream.clear()
                try pushStaged()
                try loadProduced()
            } else {
                link.take()
            }
            try noticeClose()
        case .closed:
            // A byte stream whose peer has ended its direction may still take what is staged.
            if stream.number >= 0 {
                stream.clear()
                try pushStaged()
            }
        }
    }

    /// The client is there: it has what it needs to join.
    mutating func opened(link: consuming EventLink) {
        pollDescriptor = link.number
        self.link = link
        state = .open
    }

    /// The byte stream is connected; what was written before goes out.
    mutating func opened(stream: consuming StreamLink) {
        pollDescriptor = stream.number
        self.stream = stream
        state = .open
        self.stream.drain(&writing)
    }

    /// A client joins the memory it was given (protocol 1.6).
    mutating func joined(
        memory: consuming SharedMemory, link: consuming EventLink
    ) throws(VchanError) {
        let page = memory.controlPage(.client)
        let (consumed, produced) = page.initialIndices()
        (reading, writing) = memory.rings(.client, consumed: consumed, produced: produced)
        self.page = page
        self.memory = consume memory
        opened(link: link)
        page.storeOwnLive(1)
        page.ask(.write)
        // Together with the first bytes, which mostly follow at once.
        self.link.owesNotice = true
        try noticeClose()
    }

    private mutating func closingOnError(
        _ body: (inout Channel) throws(VchanError) -> Void
    ) throws(VchanError) {
        do throws(VchanError) { try body(&self) } catch {
            state = .closed
            throw error
        }
    }

    // MARK: The end

    /// Latches the close when the peer's live byte, the hang-up of the link or the end of the
    /// byte stream says so.
    mutating func noticeClose() throws(VchanError) {
        guard state == .open else { return }
        guard let page else {
            if stream.atEnd || stream.isBroken { try becomeClosed(inOrder: !stream.wasReset) }
            return
        }
        // Value 2 is a client that was accepted and has not mapped the memory yet.
        if page.loadPeerLive() == 0 {
            try becomeClosed(inOrder: true)
        } else if link.hungUp {
            // The last thing an orderly peer stores is the live byte: look again after the hang-up.
            try becomeClosed(inOrder: page.loadPeerLive() == 0)
        }
    }

    /// After the peer was seen closed (L2 of the model) its producer index is looked at once more
    /// (L3), and never again:
    /// what it wrote between our last look and its close must not be lost.
    mutating func becomeClosed(inOrder: Bool) throws(VchanError) {
        guard state == .open else { return }
        try loadProduced()
        guard state == .open else { return }
        // How far the peer has read is of interest too, see bytesUnread.
        if let page { _ = writing.advance(to: page.loadPeerConsumed()) }
        state = .closed
        writing.closeWindow()
        peerDied = !inOrder
    }

    /// Ends a channel whose peer has moved an index where none can be; nothing of it is used any more.
    mutating func poison(_ index: UInt32, _ direction: Direction) -> VchanError {
        let ring = direction == .reading ? reading : writing
        reading.abandon()
        writing.closeWindow()
        state = .closed
        page?.storeOwnLive(0)
        link.notify()
        return .badIndex(direction, peer: index, own: ring.published, size: Int(ring.size))
    }

    /// Closes in order (E1 to E3 of the model): the peer can read everything written so far, then
    /// sees the end. Only over a byte stream that the peer does not take does this wait, for a
    /// second at most.
    public consuming func close() {
        if let page {
            if writing.unpublished > 0 { page.publishProduced(writing.own) }
            if reading.unpublished > 0 { page.publishConsumed(reading.own) }
            page.storeOwnLive(0)
            link.notifyOfEnd()
        } else if stream.number >= 0 {
            stream.finish(&writing)
        }
    }
}
