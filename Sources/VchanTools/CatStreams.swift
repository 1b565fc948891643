import LinuxSystem
import SystemPackage
import Vchan

/// Standard input and output of `vchan-cat`, and the loop that moves their bytes.
struct CatStreams: ~Copyable {
    private let input: Descriptor
    private let output: Descriptor
    private let inputIsSocket: Bool
    private let outputIsSocket: Bool
    private var inputSwitched = false
    private var outputSwitched = false

    private var inputEnded = false
    private var inputEmpty = false
    private var outputFull = false

    init() throws(Errno) {
        var (inputSwitched, outputSwitched) = (false, false)
        let inputIsSocket = try Descriptor.kind(of: 0) == .socket
        let outputIsSocket = try Descriptor.kind(of: 1) == .socket
        let input = try Descriptor.privateNonblocking(0, writing: false, switched: &inputSwitched)
        let output = try Descriptor.privateNonblocking(1, writing: true, switched: &outputSwitched)
        self.input = input
        self.output = output
        self.inputIsSocket = inputIsSocket
        self.outputIsSocket = outputIsSocket
        self.inputSwitched = inputSwitched
        self.outputSwitched = outputSwitched
    }

    /// Gives streams that are shared with other programs their blocking mode back.
    func restore() {
        if inputSwitched { try? input.setNonblocking(false) }
        if outputSwitched { try? output.setNonblocking(false) }
    }

    /// Moves bytes both ways until both have ended.
    ///
    /// - Returns: what was lost; nil when nothing was.
    mutating func pump(_ channel: inout Channel) throws(VchanError) -> String? {
        var set = PollSet()
        while true {
            if let problem = try moveIn(&channel) { return problem }
            if let problem = try moveOut(&channel) { return problem }
            if let end = try outcome(&channel) { return end.isEmpty ? nil : end }
            if try !armed(&channel) { continue }
            set.removeAll()
            if !channel.isOver { set.add(channel.pollDescriptor, .readable) }
            if inputEmpty, !inputEnded { set.add(input.number, .readable) }
            if outputFull { set.add(output.number, .writable) }
            do throws(Errno) { _ = try set.wait() } catch {
                throw .system(call: "poll", error)
            }
            inputEmpty = false
            outputFull = false
            try channel.progress()
        }
    }

    private mutating func moveIn(_ channel: inout Channel) throws(VchanError) -> String? {
        guard !inputEnded, !inputEmpty, !channel.isOver else { return nil }
        let limit = Channel.piece(ofRing: channel.writeCapacity)
        switch try channel.write(from: input.number, isSocket: inputIsSocket, limit: limit) {
        case .moved, .noRoom: return nil
        case .wouldBlock: inputEmpty = true
        case .endOfFile:
            inputEnded = true
            try channel.endWriting()
        case .failed(let error): return "standard input: \(error)"
        }
        return nil
    }

    private mutating func moveOut(_ channel: inout Channel) throws(VchanError) -> String? {
        guard !outputFull else { return nil }
        let limit = Channel.piece(ofRing: channel.readCapacity)
        switch try channel.drain(limit, to: output.number, isSocket: outputIsSocket) {
        case .moved: return nil
        case .wouldBlock: outputFull = true
        case .failed(let error): return "standard output: \(error)"
        }
        return nil
    }

    /// - Returns: nil while there is more to do; else what was lost, empty for nothing.
    private mutating func outcome(_ channel: inout Channel) throws(VchanError) -> String? {
        // Where the peer cannot be told, the end of input is the end of all.
        if inputEnded, !channel.canEndWriting, try channel.bytesUnread() == 0 { return "" }
        guard channel.peerEndedWriting, try channel.bytesReady() == 0 else { return nil }
        let unread = try channel.bytesUnread()
        if channel.isOver {
            if channel.peerDied { return "the peer died" }
            return unread == 0 ? "" : "the peer has closed and left \(unread) bytes unread"
        }
        return inputEnded && unread == 0 ? "" : nil
    }

    /// Asks for what the next step needs.
    ///
    /// - Returns: false when it can be made at once.
    private mutating func armed(_ channel: inout Channel) throws(VchanError) -> Bool {
        var sleep = true
        if channel.isOver { return outputFull }
        if !outputFull, !channel.peerEndedWriting, try channel.armForData() { sleep = false }
        // After the end of input the next step is the end of what the peer still reads.
        let room = inputEnded ? channel.writeCapacity : 1
        if inputEnded || !inputEmpty, try channel.armForSpace(atLeast: room) {
            // All was read; what remains is the peer's end, of which progress tells.
            sleep = sleep && inputEnded
        }
        return sleep
    }
}
