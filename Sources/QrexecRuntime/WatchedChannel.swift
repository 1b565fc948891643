import LinuxSystem
import SystemPackage
public import Vchan

/// A vchan in an event loop: calls back when something may have happened on it.
public final class WatchedChannel {
    private let loop: EventLoop
    private var held: Channel?
    private var watched: Int32?
    /// The descriptor was readable, and nobody has looked why.
    private var isSignalled = false
    private let onEvent: () -> Void

    /// - Parameter onEvent: to call `progress` and look; also called once soon after `start`.
    public init(loop: EventLoop, channel: consuming Channel, onEvent: @escaping () -> Void) {
        self.loop = loop
        self.held = consume channel
        self.onEvent = onEvent
    }

    public var isClosed: Bool { held == nil }

    /// The channel; not to be touched after `close`.
    public var channel: Channel {
        _read { yield held! }
        _modify { yield &held! }
    }

    /// Begins to watch.
    public func start() throws(VchanError) {
        // Before a peer has joined, what to watch is known after the first step.
        if channel.state != .waiting { try watch() }
        loop.defer { [weak self] in self?.event() }
    }

    private func event() {
        if held != nil { onEvent() }
    }

    private func watch() throws(VchanError) {
        let number = channel.pollDescriptor
        do throws(Errno) {
            try loop.watch(number, .readable) { [weak self] _ in
                self?.isSignalled = true
                self?.event()
            }
            watched = number
        } catch {
            throw .system(call: "epoll_ctl", error)
        }
    }

    private func unwatch() {
        if let number = watched { loop.unwatch(number) }
        watched = nil
    }

    /// Takes notice of what happened on the channel.
    public func progress() throws(VchanError) {
        guard channel.state == .waiting else {
            // Notifications of a ring come by the descriptor only; what is in it needs none.
            if !isSignalled, !channel.isByteStream { return }
            isSignalled = false
            try channel.progress()
            return
        }
        do throws(VchanError) {
            try channel.progress()
        } catch {
            unwatch()
            throw error
        }
        // The descriptor to poll may change while the peer is joining, and its number be used again.
        if channel.pollsAsBefore, watched == channel.pollDescriptor { return }
        unwatch()
        try watch()
    }

    /// Waits for nothing more: a closed channel has nothing to tell, only to give.
    public func stopWatching() { unwatch() }

    /// Closes in order: what is written can still be read by the peer.
    public func close() {
        unwatch()
        guard let channel = held.take() else { return }
        if channel.isByteStream, channel.state == .open {
            LingeringChannel.close(channel, in: loop)
        } else {
            channel.close()
        }
    }
}

/// A channel over a byte stream that is closed here and not yet there: what the peer is still sending
/// is taken and dropped for a moment, so that neither its writes fail nor what it has not read yet
/// is lost to it.
private final class LingeringChannel {
    private static let time = seconds(1)

    private let loop: EventLoop
    private var channel: Channel?
    private var timer: EventLoop.Timer?

    private init(_ channel: consuming Channel, _ loop: EventLoop) {
        self.channel = consume channel
        self.loop = loop
    }

    static func close(_ channel: consuming Channel, in loop: EventLoop) {
        let number = channel.pollDescriptor
        let lingering = LingeringChannel(channel, loop)
        do {
            try lingering.channel?.endWriting()
            // The loop holds it until it is over.
            try loop.watch(number, .readable) { _ in lingering.drop(number) }
            lingering.timer = loop.schedule(after: time) { lingering.finish(number) }
            lingering.drop(number)
        } catch {
            lingering.finish(number)
        }
    }

    private func drop(_ number: Int32) {
        do {
            try channel?.progress()
            while let count = try channel?.discard(1 << 20), count > 0 {}
            if channel?.state == .open { return }
        } catch {}
        finish(number)
    }

    private func finish(_ number: Int32) {
        guard let channel = channel.take() else { return }
        loop.unwatch(number)
        if let timer { loop.cancel(timer) }
        channel.close()
    }
}
