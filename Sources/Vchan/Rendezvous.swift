import LinuxSystem

/// The way to the peer, by transport: what a channel goes through while it waits.
enum Rendezvous: ~Copyable {
    case done
    /// With the memory's descriptor, until the client has it.
    case localServer(LocalListener, file: Descriptor)
    case localClient(LocalConnector)
    case streamServer(StreamListener)
    case streamClient(StreamConnector)
    case xenServer(XenListener)
    case xenClient(XenConnector)
    case library(LibraryConnector)

    /// Takes it out of its place; a step that is not the last one puts it back.
    mutating func take() -> Rendezvous {
        var taken = Rendezvous.done
        swap(&taken, &self)
        return taken
    }
}

extension Channel {
    /// Whether a `pollDescriptor` with the number that it had before is the same one: the listener, or
    /// the watch of the place where the server will be.
    package var pollsAsBefore: Bool {
        switch rendezvous {
        case .localServer: true
        case .localClient(let connector): !connector.isConnected
        default: false
        }
    }

    /// One step on the way.
    mutating func meet() throws(VchanError) {
        switch rendezvous.take() {
        case .done: break
        case .localServer(let listener, let file):
            guard let connection = try listener.accept() else {
                rendezvous = .localServer(listener, file: file)
                return
            }
            // Before the client can have ended the call, and another one begins at the same port.
            listener.remove()
            let there = LocalOffer.send(memory: file, to: connection)
            opened(link: EventLink(socket: connection))
            if !there { try becomeClosed(inOrder: false) }
        case .localClient(var connector):
            var link = EventLink()
            let arrived = try connector.advance(link: &link)
            guard let memory = arrived else {
                pollDescriptor = connector.pollDescriptor
                rendezvous = .localClient(connector)
                return
            }
            try joined(memory: memory, link: link)
        case .streamServer(let listener):
            guard let link = try listener.accept() else {
                rendezvous = .streamServer(listener)
                return
            }
            opened(stream: link)
        case .streamClient(var connector):
            guard let link = try connector.advance() else {
                rendezvous = .streamClient(connector)
                return
            }
            opened(stream: link)
        case .xenServer(var listener):
            guard try listener.advance(page!) else {
                rendezvous = .xenServer(listener)
                return
            }
            opened(link: EventLink(xen: listener.joined()))
            try noticeClose()
        case .xenClient(var connector):
            guard let ends = try connector.advance() else {
                rendezvous = .xenClient(connector)
                return
            }
            var link = EventLink()
            let memory = try connector.joined(ends, link: &link)
            try joined(memory: memory, link: link)
        case .library(var connector):
            guard let link = try connector.advance() else {
                pollDescriptor = connector.pollDescriptor
                rendezvous = .library(connector)
                return
            }
            opened(stream: link)
        }
    }
}
