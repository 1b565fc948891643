import LinuxSystem
import QrexecRuntime
import SystemPackage
import Vchan

/// A channel for a confined daemon that waits until its server exists.
final class PendingOpening {
    /// What the daemon is sent.
    struct Handed {
        let fields: [String: String]
        let descriptors: [HeldDescriptor]
        /// To be kept as long as the daemon has the channel.
        let keeper: ChannelKeeper?
    }

    private let loop: EventLoop
    private var opening: ChannelOpening
    private var watched: Int32?
    private var timer: EventLoop.Timer?
    private var completion: ((Result<Handed, VchanError>) -> Void)?

    /// - Parameter time: nanoseconds for the server to come; nil waits as long as it takes.
    init(
        _ loop: EventLoop, _ opening: consuming ChannelOpening, time: UInt64?,
        completion: @escaping (Result<Handed, VchanError>) -> Void
    ) {
        self.loop = loop
        self.opening = opening
        self.completion = completion
        if let time {
            timer = loop.schedule(after: time) { [weak self] in self?.finish(.failure(.timedOut)) }
        }
    }

    deinit {
        if let timer { loop.cancel(timer) }
        unwatch()
    }

    private func unwatch() {
        if let watched { loop.unwatch(watched) }
        watched = nil
    }

    private func finish(_ result: Result<Handed, VchanError>) {
        unwatch()
        let handler = completion
        completion = nil
        handler?(result)
    }

    func start() { step() }

    private func step() {
        unwatch()
        do throws(VchanError) {
            if let handed = try opening.advance() {
                return finish(.success(ChannelFields.split(handed)))
            }
            let number = opening.pollDescriptor
            do throws(Errno) {
                try loop.watch(number, .readable) { [weak self] _ in self?.step() }
                watched = number
            } catch {
                throw .system(call: "epoll_ctl", error)
            }
        } catch {
            finish(.failure(error))
        }
    }
}

/// A channel in the words of a message: its transport, numbers, and descriptors that go with it.
enum ChannelFields {
    static let all: Set<String> = ["id", "transport", "numbers", "reason"]

    static func split(_ handed: consuming HandedChannel) -> PendingOpening.Handed {
        let fields = [
            "transport": handed.transport,
            "numbers": handed.numbers.map { String($0) }.joined(separator: ","),
        ]
        let keeper = handed.keeper
        var descriptors: [HeldDescriptor] = []
        if let second = handed.takeSecond() { descriptors.append(HeldDescriptor(second)) }
        if let third = handed.takeThird() { descriptors.append(HeldDescriptor(third)) }
        descriptors.insert(HeldDescriptor(handed.takeFirst()), at: 0)
        return PendingOpening.Handed(fields: fields, descriptors: descriptors, keeper: keeper)
    }

    /// - Returns: nil when the message says why there is no channel.
    static func join(
        _ message: DispatchMessage, _ descriptors: [HeldDescriptor]
    ) throws(DispatchMessage.Malformed) -> HandedChannel? {
        try message.only(all)
        guard let first = descriptors.first?.take() else { return nil }
        let text = try message.text("numbers")
        let numbers = text.split(separator: ",").compactMap { UInt64($0) }
        guard numbers.map({ String($0) }).joined(separator: ",") == text else {
            throw DispatchMessage.Malformed(description: "a channel with numbers that are none")
        }
        return HandedChannel(
            transport: try message.text("transport"), first,
            second: descriptors.count > 1 ? descriptors[1].take() : nil,
            third: descriptors.count > 2 ? descriptors[2].take() : nil, numbers: numbers)
    }
}
