/// Cuts a byte stream into messages. A length is checked before its body is waited for, so that a
/// peer can make us hold no more than one allowed message.
public struct MessageAssembler: Sendable {
    private var bytes: [UInt8] = []
    private var start = 0
    private let checkLength: @Sendable (MessageType, Int) throws(ProtocolError) -> Void

    /// - Parameter checkLength: throws for a type that is not expected here or a bad length.
    public init(
        checkLength: @escaping @Sendable (MessageType, Int) throws(ProtocolError) -> Void
    ) {
        self.checkLength = checkLength
    }

    public mutating func append(_ new: ArraySlice<UInt8>) {
        if start > 0, start == bytes.count {
            bytes.removeAll(keepingCapacity: true)
            start = 0
        }
        bytes.append(contentsOf: new)
    }

    /// Whether a message has begun and not ended.
    public var isIncomplete: Bool { start < bytes.count }

    /// The next whole message; nil when more bytes are needed.
    public mutating func next() throws(ProtocolError) -> (type: MessageType, body: [UInt8])? {
        guard bytes.count - start >= MessageHeader.size,
            let header = MessageHeader(Array(bytes[start..<(start + MessageHeader.size)]))
        else { return nil }
        guard let type = MessageType(rawValue: header.type) else {
            throw .unknownType(header.type)
        }
        let length = Int(header.length)
        try checkLength(type, length)
        let bodyStart = start + MessageHeader.size
        guard bytes.count - bodyStart >= length else { return nil }
        let body = Array(bytes[bodyStart..<(bodyStart + length)])
        start = bodyStart + length
        if start > 16384 {
            bytes.removeFirst(start)
            start = 0
        }
        return (type, body)
    }
}
