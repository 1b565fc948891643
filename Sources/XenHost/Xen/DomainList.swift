/// The domains of a host as `xl list -v` shows them.
struct DomainList: Equatable {
    struct Entry: Equatable {
        var name: String
        var id: UInt32
        var isPaused = false
        /// Has shut down, or crashed, and waits to be destroyed.
        var hasShutDown = false
        /// Is being destroyed; may take long while others hold its memory.
        var isDying = false
        /// nil when xl does not tell.
        var uuid: String?
    }

    /// What `xl list` printed was no list.
    struct Invalid: Error, Equatable {
        let line: String
    }

    private(set) var entries: [Entry] = []

    init(_ output: String) throws(Invalid) {
        let lines = output.split(separator: "\n")
        guard let header = lines.first, header.hasPrefix("Name") else {
            throw Invalid(line: String(lines.first ?? ""))
        }
        for line in lines.dropFirst() { entries.append(try Self.entry(line)) }
    }

    /// The domain that runs, or waits to be destroyed, under a name.
    subscript(name: String) -> Entry? { entries.first { $0.name == name && !$0.isDying } }

    /// Six letters or dashes, found from the right: a domain's name may be anything.
    private static func entry(_ line: Substring) throws(Invalid) -> Entry {
        let fields = line.split(separator: " ")
        guard
            let state = fields.lastIndex(where: { isState($0) }), state >= 3,
            let id = UInt32(fields[state - 3])
        else { throw Invalid(line: String(line)) }
        let flags = Array(fields[state].utf8)
        let name = fields[..<(state - 3)].joined(separator: " ")
        return Entry(
            name: name, id: id, isPaused: flags[2] == UInt8(ascii: "p"),
            hasShutDown: flags[3] == UInt8(ascii: "s"), isDying: flags[5] == UInt8(ascii: "d"),
            uuid: fields[state...].lazy.compactMap { HostUUID.parsed($0) }.first)
    }

    /// `rbpscd`, each letter at its place or a dash; the fifth tells why it shut down.
    private static func isState(_ text: Substring) -> Bool {
        let bytes = Array(text.utf8)
        guard bytes.count == 6 else { return false }
        return zip(bytes, "rbps?d".utf8).allSatisfy { byte, letter in
            byte == 0x2D || byte == letter || letter == UInt8(ascii: "?")
        }
    }
}
