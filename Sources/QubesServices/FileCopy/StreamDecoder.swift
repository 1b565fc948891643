import LinuxSystem

/// Takes a file copy stream apart (specification 15.1), whatever the pieces it arrives in. It keeps
/// one name at a time and nothing else, so its memory is bounded by the longest name.
public struct StreamDecoder: Sendable {
    /// What the bytes so far mean.
    public enum Event: Equatable, Sendable {
        /// All bytes are used; more are needed.
        case needMore
        /// Header and name of an entry are complete: `header` and `name` say what it is.
        case entry
        /// The bytes of this range of the input are contents of the entry, or its link's target.
        case contents(Range<Int>)
        /// The entry is complete.
        case entryEnd
        /// The end marker: the stream is complete and what follows is not part of it.
        case end
    }

    /// What no stream may have.
    public enum Failure: Error, Equatable, Sendable {
        case nameTooLong(UInt32)
        /// A name that is not ended by its only NUL.
        case nameNotTerminated
        /// More bytes than a file can have.
        case tooLarge(UInt64)
        case linkTargetTooLong(UInt64)
        case directoryWithContents(UInt64)
        case unknownType(mode: UInt32)
        case nanoseconds(UInt32)
    }

    private enum State: Sendable {
        case header
        case name
        case contents(remaining: UInt64)
        case ended
    }

    private var state = State.header
    /// Bytes of a header or of a name that did not come in one piece.
    private var partialHeader: [UInt8] = []
    /// The current entry's header.
    public private(set) var header = EntryHeader.end
    /// The current entry's name with its NUL.
    public private(set) var name: [UInt8] = []

    public init() {
        partialHeader.reserveCapacity(EntryHeader.length)
        name.reserveCapacity(1024)
    }

    /// Whether what is missing is an end marker or the next entry, and not the rest of an entry that
    /// was announced. A part of a header announces nothing yet.
    public var isBetweenEntries: Bool {
        if case .header = state { return true }
        return false
    }

    /// The next event in these bytes.
    ///
    /// - Parameters:
    ///   - input: bytes of the stream.
    ///   - position: where to go on; moved behind the bytes that were used.
    public mutating func next(
        _ input: Span<UInt8>, position: inout Int
    ) throws(Failure) -> Event {
        while true {
            switch state {
            case .header:
                guard takeHeader(input, &position) else { return .needMore }
                if header.nameLength == 0 {
                    state = .ended
                    return .end
                }
                if header.nameLength > UInt32(NameRules.maximumLength) {
                    throw .nameTooLong(header.nameLength)
                }
                name.removeAll(keepingCapacity: true)
                state = .name
            case .name:
                let missing = Int(header.nameLength) - name.count
                let count = min(missing, input.count - position)
                for i in position..<(position + count) { name.append(input[i]) }
                position += count
                if count < missing { return .needMore }
                try checkTermination()
                // Only now, so that the answer can name the entry.
                try checkHeader()
                state = .contents(remaining: header.size)
                return .entry
            case .contents(let remaining):
                if remaining == 0 {
                    state = .header
                    return .entryEnd
                }
                let count = Int(min(remaining, UInt64(input.count - position)))
                if count == 0 { return .needMore }
                let range = position..<(position + count)
                position += count
                state = .contents(remaining: remaining - UInt64(count))
                return .contents(range)
            case .ended: return .end
            }
        }
    }

    /// Reads the header when all of it is there; keeps the part that is there when not.
    private mutating func takeHeader(_ input: Span<UInt8>, _ position: inout Int) -> Bool {
        let missing = EntryHeader.length - partialHeader.count
        let available = input.count - position
        if partialHeader.isEmpty && available >= missing {
            header = EntryHeader(input.extracting(position..<(position + missing)))
            position += missing
            return true
        }
        let count = min(missing, available)
        for i in position..<(position + count) { partialHeader.append(input[i]) }
        position += count
        if count < missing { return false }
        header = EntryHeader(partialHeader.span)
        partialHeader.removeAll(keepingCapacity: true)
        return true
    }

    private func checkHeader() throws(Failure) {
        let nanoseconds = max(header.accessed.nanoseconds, header.modified.nanoseconds)
        if nanoseconds > 999_999_999 { throw .nanoseconds(nanoseconds) }
        switch FileKind(mode: header.mode) {
        case .regular:
            if header.size > UInt64(Int64.max) { throw .tooLarge(header.size) }
        case .symbolicLink:
            if header.size > UInt64(NameRules.maximumLength) {
                throw .linkTargetTooLong(header.size)
            }
        case .directory:
            if header.size != 0 { throw .directoryWithContents(header.size) }
        case .special: throw .unknownType(mode: header.mode)
        }
    }

    private func checkTermination() throws(Failure) {
        if name.firstIndex(of: 0) != name.count - 1 { throw .nameNotTerminated }
    }
}
