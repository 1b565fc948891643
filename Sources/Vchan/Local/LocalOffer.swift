import LinuxSystem
import SystemPackage

/// What a server hands over at accept: the memory, and the values of the two store keys by which a
/// client finds it on Xen (protocol 1.7).
struct LocalOffer: ~Copyable {
    let memory: Descriptor

    /// Page `n` of the memory has this reference plus `n`; the control page is the first.
    static let firstReference: UInt32 = 1
    static let eventChannel: UInt32 = 1
    private static let text =
        "ring-ref=" + decimalText(UInt64(firstReference))
        + "\nevent-channel=" + decimalText(UInt64(eventChannel)) + "\n"

    /// - Returns: whether the client was still there.
    static func send(memory: borrowing Descriptor, to client: borrowing Descriptor) -> Bool {
        do throws(Errno) {
            _ = try UnixSocket.send(client, Array(text.utf8), descriptors: [memory.number])
            return true
        } catch {
            return false
        }
    }

    enum Arrival: ~Copyable {
        case offer(LocalOffer)
        case nothingYet
        /// The server went away before it made its offer.
        case hangUp
    }

    static func receive(from server: borrowing Descriptor) throws(VchanError) -> Arrival {
        var descriptors = DescriptorList()
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try UnixSocket.receive(
                server, limit: 256, maximumDescriptors: 1, descriptors: &descriptors)
        } catch .resourceTemporarilyUnavailable {
            return .nothingYet
        } catch .connectionReset {
            return .hangUp
        } catch .messageTooLong {
            throw .badOffer("a message of more than 256 bytes or more than one descriptor")
        } catch {
            throw .system(call: "receive an offer", error)
        }
        if bytes.isEmpty { return .hangUp }
        guard let memory = descriptors.takeFirst() else {
            throw .badOffer("no descriptor of memory")
        }
        try check(String(decoding: bytes, as: UTF8.self))
        return .offer(LocalOffer(memory: memory))
    }

    /// Both values, strictly: the numbers themselves mean something only to a stand-in for Xen.
    private static func check(_ text: String) throws(VchanError) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        let names = ["ring-ref=", "event-channel=", ""]
        guard lines.count == names.count, lines[2].isEmpty else {
            throw .badOffer("expected the lines ring-ref and event-channel")
        }
        for (line, name) in zip(lines, names.dropLast()) {
            guard line.hasPrefix(name),
                let value = parseDecimal(line.dropFirst(name.utf8.count), maximum: .max), value != 0
            else { throw .badOffer("expected \(name) and a number from 1 to 4294967295") }
        }
    }
}
