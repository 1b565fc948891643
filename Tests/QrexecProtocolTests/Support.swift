@testable import QrexecProtocol

/// A reproducible source of bytes (SplitMix64).
struct Seeded: RandomNumberGenerator {
    private var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
        return value ^ value >> 31
    }

    mutating func bytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) }
    }

    /// A copy with a byte changed, removed or added, a few times.
    mutating func mutated(_ bytes: [UInt8]) -> [UInt8] {
        var result = bytes
        for _ in 0...Int.random(in: 0...3, using: &self) {
            let place = Int.random(in: 0...result.count, using: &self)
            switch Int.random(in: 0...3, using: &self) {
            case 0 where place < result.count:
                result[place] = [0, 0x0A, 0x20, 0x2B, 0x3D, 0x7F, 0x80, 0xFF].randomElement(
                    using: &self)!
            case 1 where place < result.count: result.remove(at: place)
            case 2: result.removeLast(result.count - place)
            default: result.insert(UInt8.random(in: 0...255, using: &self), at: place)
            }
        }
        return result
    }
}

func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

/// Text in a field, NUL-filled.
func field(_ text: String, _ size: Int) -> [UInt8] { padded(bytes(text), size) }

func padded(_ bytes: [UInt8], _ size: Int) -> [UInt8] {
    bytes + [UInt8](repeating: 0, count: size - bytes.count)
}

let place = ConnectParameters(domain: 7, port: 513)
let ident = RequestIdent("SOCKET12")!
