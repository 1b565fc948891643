/// What may be in a clipboard that goes from one qube to another: text, in bounds.
enum ClipboardText {
    /// Bytes, unless configured (specification 17).
    static let standardLimit = 64_000
    /// What the limit may be set to.
    static let limits = 256...256_000

    /// Why bytes are not taken.
    enum Refusal: Error, Equatable {
        case empty
        case tooLarge(limit: Int)
        /// No UTF-8, or with a NUL, which ends texts in many programs.
        case notText

        var text: String {
            switch self {
            case .empty: "is empty"
            case .tooLarge(let limit):
                "is larger than \(limit) bytes; copy less, or raise gui-max-clipboard-size"
            case .notText: "is no text"
            }
        }
    }

    static func check(_ bytes: [UInt8], limit: Int) throws(Refusal) {
        if bytes.isEmpty { throw .empty }
        if bytes.count > limit { throw .tooLarge(limit: limit) }
        if bytes.contains(0) || String(validating: bytes, as: UTF8.self) == nil { throw .notText }
    }

    /// A limit as somebody configured it; nil for one that is out of bounds.
    static func limit(_ text: String) -> Int? {
        let value = Int(text.filter { $0 != "\n" })
        return value.flatMap { limits.contains($0) ? $0 : nil }
    }
}
