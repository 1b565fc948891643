import Foundation

/// A program to run in a qube.
struct ProgramRequest: Codable, Equatable {
    /// The program and its arguments; a name without `/` is looked for in the search path.
    var arguments: [String]
    /// Account inside; nil runs it as process 1.
    var user: String?
    /// Beside HOME, USER, PATH and the like.
    var environment: [String: String] = [:]
    /// Whether the program gets a terminal of its own, and the size of it.
    var terminal: TerminalSize?
    /// Begins the program as a login shell of the user; `arguments` are then the shell's.
    var isLoginShell = false

    struct TerminalSize: Codable, Equatable {
        var rows: UInt16
        var columns: UInt16
    }
}

/// What the manager asks of process 1 of a domain. One packet each, with descriptors where noted.
enum InitRequest: Codable, Equatable {
    /// Starts a supervised program; with one descriptor, for its output and errors.
    case start(id: UInt32, program: ProgramRequest)
    case signal(id: UInt32, signal: Int32)
    /// Serves a client of `qubes-lab run`; with its connection.
    case serve
    /// Asks all processes to end, ends them after so many milliseconds, and then itself.
    case shutdown(milliseconds: UInt64)

    /// Packets are as long as this at most, in bytes.
    static let maximumLength = 65536
}

/// What process 1 tells, to the manager and to clients: a record of fixed form, because it may come
/// from a hostile domain.
///
/// | offset | size | |
/// |--:|--:|---|
/// | 0 | 1 | kind |
/// | 1 | 4 | id, little-endian |
/// | 5 | 4 | value, little-endian |
/// | 9 | … | text, at most 512 bytes |
struct InitReport: Equatable {
    enum Kind: UInt8 {
        /// Process 1 runs; with a pid descriptor of it.
        case ready = 1
        /// A program runs; with its pid descriptor, or for clients, its terminal if it has one.
        case started = 2
        /// It could not be started: `value` is the exit status to give, `text` the reason.
        case failed = 3
        /// It ended: `value` is its exit status, or 128 + signal.
        case ended = 4
    }

    static let maximumText = 512
    static let maximumLength = 9 + maximumText

    var kind: Kind
    var id: UInt32 = 0
    var value: Int32 = 0
    var text = ""

    var bytes: [UInt8] {
        var bytes = [kind.rawValue]
        for number in [id, UInt32(bitPattern: value)] {
            for shift in stride(from: UInt32(0), to: 32, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: number >> shift))
            }
        }
        return bytes + text.utf8.prefix(Self.maximumText)
    }
}

extension InitReport {
    /// nil when the bytes are no report.
    init?(_ bytes: [UInt8]) {
        guard (9...Self.maximumLength).contains(bytes.count), let kind = Kind(rawValue: bytes[0])
        else { return nil }
        func number(at offset: Int) -> UInt32 {
            (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << UInt32(8 * $1) }
        }
        self.init(
            kind: kind, id: number(at: 1), value: Int32(bitPattern: number(at: 5)),
            text: String(decoding: bytes[9...], as: UTF8.self))
    }
}

/// What a client of `qubes-lab run` tells process 1 after its request: signals for the program.
struct ClientSignal: Equatable {
    let number: Int32

    var bytes: [UInt8] { [UInt8(truncatingIfNeeded: number)] }

    init(_ number: Int32) { self.number = number }

    init?(bytes: [UInt8]) {
        guard bytes.count == 1, (1...64).contains(bytes[0]) else { return nil }
        number = Int32(bytes[0])
    }
}

/// Messages that both ends of which are ours, as JSON.
enum Packet {
    static func encode(_ value: some Encodable) -> [UInt8] {
        // Strings, numbers and lists of them always encode.
        guard let data = try? JSONEncoder().encode(value) else { return [] }
        return Array(data)
    }

    static func decode<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8]) -> Value? {
        try? JSONDecoder().decode(type, from: Data(bytes))
    }
}
