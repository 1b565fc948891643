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
    private var listener: LocalListener?
    private var connector: LocalConnector?
    /// The memory's descriptor until a client has it.
    private var file: Descriptor?
    private var memory: SharedMemory?
    var page: ControlPage?
    var link = EventLink()
    var reading = ConsumerRing.none
    var writing = ProducerRing.none

    init(
        listener: consuming LocalListener, memory: consuming SharedMemory,
        file: consuming Descriptor
    ) {
        role = .server
        let page = memory.controlPage(.server)
        let (consumed, produced) = page.initialIndices()
        (reading, writing) = memory.rings(.server, consumed: consumed, produced: produced)
        self.page = page
        pollDescriptor = listener.socket.number
        self.listener = consume listener
        self.memory = consume memory
        self.file = consume file
    }

    init(connector: consuming LocalConnector) {
        role = .client
        pollDescriptor = connector.pollDescriptor
        self.connector = consume connector
    }

    /// The descriptor to watch for readability. Ask again after each `progress`: it changes on the
    /// way from waiting to open. In state closed it has nothing more to say: stop watching it.
    public private(set) var pollDescriptor: Int32

    /// Bytes that the ring this side reads can hold; 0 until a client is connected.
    public var readCapacity: Int { Int(reading.size) }
    /// Bytes that the ring this side writes can hold; 0 until a client is connected.
    public var writeCapacity: Int { Int(writing.size) }

    /// Does what there is to do when `pollDescriptor` is readable: a bounded amount of work.
    public mutating func progress() throws(VchanError) {
        switch state {
        case .waiting: try closingOnError { channel throws(VchanError) in try channel.meet() }
        case .open:
            link.take()
            try noticeClose()
        case .closed: break
        }
    }

    private mutating func meet() throws(VchanError) {
        switch role {
        case .server:
            guard let connection = try listener!.accept() else { return }
            listener = nil
            let there = LocalOffer.send(memory: file!, to: connection)
            file = nil
            link = EventLink(socket: connection)
            pollDescriptor = link.number
            state = .open
            if !there { try becomeClosed(inOrder: false) }
        case .client:
            var way = connector.take()!
            let arrived = try way.advance(link: &link)
            guard let memory = arrived else {
                pollDescriptor = way.pollDescriptor
                connector = consume way
                return
            }
            pollDescriptor = link.number
            let page = memory.controlPage(.client)
            let (consumed, produced) = page.initialIndices()
            (reading, writing) = memory.rings(.client, consumed: consumed, produced: produced)
            self.page = page
            self.memory = consume memory
            state = .open
            page.storeOwnLive(1)
            page.ask(.write)
            link.notify()
            try noticeClose()
        }
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

    /// Latches the close when the peer's live byte or the hang-up of the link says so.
    mutating func noticeClose() throws(VchanError) {
        guard state == .open else { return }
        // Value 2 is a client that was accepted and has not mapped the memory yet.
        if page!.loadPeerLive() == 0 {
            try becomeClosed(inOrder: true)
        } else if link.hungUp {
            // The last thing an orderly peer stores is the live byte: look again after the hang-up.
            try becomeClosed(inOrder: page!.loadPeerLive() == 0)
        }
    }

    /// After the peer was seen closed its producer index is looked at once more, and never again:
    /// what it wrote between our last look and its close must not be lost.
    private mutating func becomeClosed(inOrder: Bool) throws(VchanError) {
        guard state == .open else { return }
        try loadProduced()
        state = .closed
        peerDied = !inOrder
    }

    /// Ends a channel whose peer has broken the protocol; nothing of it is used any more.
    mutating func poison(_ error: VchanError) -> VchanError {
        reading.abandon()
        state = .closed
        page?.storeOwnLive(0)
        link.notify()
        return error
    }

    /// Closes in order: the peer can read everything written so far, then sees the end.
    public consuming func close() {
        guard let page else { return }
        if state == .open || role == .server {
            if writing.unpublished > 0 { page.publishProduced(writing.staged) }
            if reading.unpublished > 0 { page.publishConsumed(reading.taken) }
        }
        page.storeOwnLive(0)
        link.notify()
    }
}
