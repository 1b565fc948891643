import LinuxSystem
public import QrexecProtocol
import SystemPackage

/// A local program may move its output to the socket that it gets its input from (SIGUSR1, 5.4).
extension DataPump {
    /// Reads the main sink's socket in the place of the source of a type, which ends without an end
    /// message. Done once; nothing happens when the sink is no socket, or the source's end went out.
    public func readMainSink(as type: MessageType) {
        guard !readsMainSink, let socket = mainSink.duplicateSocket() else { return }
        readMainSink(as: type, over: socket)
    }

    private func readMainSink(as type: MessageType, over socket: consuming Descriptor) {
        guard let source = sources.first(where: { $0.type == type }), !source.isEnded else {
            return
        }
        readsMainSink = true
        if let number = source.number { loop.unwatch(number) }
        let number = socket.number
        source.replace(with: socket)
        do throws(Errno) { try watch(source, number) } catch { source.close() }
        again()
    }

    /// The same for a program of which it is not certain that it asked: as soon as it says something
    /// on its input socket, which a program that did not ask never does.
    public func readMainSinkOnceItSpeaks(as type: MessageType) {
        guard !readsMainSink, standby == nil, let socket = mainSink.duplicateSocket() else {
            return
        }
        let number = socket.number
        standby = consume socket
        do throws(Errno) {
            try loop.watch(number, .readable) { [weak self] _ in self?.standbySpoke(as: type) }
        } catch {
            standby = nil
        }
    }

    /// Whether a source's end may only mean that its program has moved on to the socket that is
    /// listened to: that is seen when the program says something there, or closes it. A program that
    /// does neither meant the end.
    func holdsBack(_ source: DataSource) -> Bool {
        guard standby != nil, source.number != nil else { return false }
        close(source: source)
        source.isReady = false
        loop.schedule(after: Self.holdTime) { [weak self, weak source] in
            guard let self, let source else { return }
            self.release(source)
        }
        return true
    }

    private static var holdTime: UInt64 { seconds(1) }

    private func release(_ source: DataSource) {
        guard source.number == nil, source.state == .open else { return }
        source.state = .endToSend
        pump()
    }

    private func standbySpoke(as type: MessageType) {
        guard let socket = standby.take() else { return }
        loop.unwatch(socket.number)
        if UnixSocket.hasData(socket.number) {
            readMainSink(as: type, over: socket)
        } else {
            for source in sources where source.type == type { release(source) }
        }
    }
}
