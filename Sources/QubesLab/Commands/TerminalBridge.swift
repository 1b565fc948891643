import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Makes this process's terminal the window of a terminal in a qube: bytes both ways, raw, and the
/// size.
final class TerminalBridge {
    private let loop: EventLoop
    private let master: Descriptor
    private let input: Descriptor
    private let output: Descriptor
    private var isEnded = false
    private var toQube = Flow()
    private var toUser = Flow()
    private var inputSwitched = false
    private var outputSwitched = false

    /// One direction: bytes that the receiver did not take yet stop the reading.
    private struct Flow {
        var pending: [UInt8] = []
        var isOpen = true
    }

    init(loop: EventLoop, master: consuming Descriptor) throws(Errno) {
        self.loop = loop
        try master.setNonblocking(true)
        self.master = master
        input = try Descriptor.privateNonblocking(0, writing: false, switched: &inputSwitched)
        output = try Descriptor.privateNonblocking(1, writing: true, switched: &outputSwitched)
        try TerminalDevice.enterRawMode(0)
        passSize()
        try loop.watch(input.number, .readable) { [unowned self] _ in self.pumpToQube() }
        try loop.watch(output.number, []) { [unowned self] _ in self.pumpToUser() }
        try loop.watch(self.master.number, .readable) { [unowned self] readiness in
            if readiness.contains(.readable) || readiness.contains(.hangup) { self.pumpToUser() }
            if readiness.contains(.writable) { self.pumpToQube() }
        }
    }

    func passSize() {
        guard let size = try? TerminalDevice.size(0) else { return }
        try? TerminalDevice.setSize(master.number, size)
    }

    /// Shows what is left and gives the terminal back.
    func end() {
        guard !isEnded else { return }
        isEnded = true
        pumpToUser()
        if !toUser.pending.isEmpty { try? Descriptor.writeAll(toUser.pending, to: 1) }
        for number in [input.number, output.number, master.number] { loop.unwatch(number) }
        TerminalDevice.restore()
        if inputSwitched { try? input.setNonblocking(false) }
        if outputSwitched { try? output.setNonblocking(false) }
    }

    private func pumpToQube() {
        Self.pump(&toQube, from: input, to: master)
        update()
    }

    private func pumpToUser() {
        Self.pump(&toUser, from: master, to: output)
        update()
    }

    private func update() {
        guard !isEnded else { return }
        let reads = toQube.isOpen && toQube.pending.isEmpty
        loop.setInterest(input.number, reads ? .readable : [])
        loop.setInterest(output.number, toUser.pending.isEmpty ? [] : .writable)
        var interest: Readiness = []
        if toUser.isOpen, toUser.pending.isEmpty { interest.insert(.readable) }
        if !toQube.pending.isEmpty { interest.insert(.writable) }
        // A terminal whose programs are gone is always hung up: it is not looked at any more.
        if toUser.isOpen {
            loop.setInterest(master.number, interest)
        } else {
            loop.unwatch(master.number)
        }
    }

    private static func pump(
        _ flow: inout Flow, from source: borrowing Descriptor, to target: borrowing Descriptor
    ) {
        var chunk = [UInt8](repeating: 0, count: 65536)
        while true {
            do throws(Errno) {
                while !flow.pending.isEmpty {
                    flow.pending.removeFirst(try target.write(flow.pending.span))
                }
                guard flow.isOpen else { return }
                let count = try source.read(into: &chunk)
                if count == 0 { flow.isOpen = false }
                flow.pending += chunk[..<count]
            } catch .resourceTemporarilyUnavailable {
                return
            } catch {
                // EIO: no program has the other side of the terminal any more.
                flow.isOpen = false
                flow.pending = []
                return
            }
        }
    }
}
