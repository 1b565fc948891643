/// Decompression of DEFLATE data (RFC 1951) that somebody else made: bounded, and wrong for nobody but
/// its maker.
struct Inflate {
    /// Why data is no DEFLATE stream.
    struct Invalid: Error, Equatable { let reason: String }

    private let input: [UInt8]
    private var next: Int
    private var bits: UInt32 = 0
    private var bitCount = 0
    private var output: [UInt8] = []
    private let limit: Int

    /// Decompresses a stream.
    ///
    /// - Parameter limit: bytes of output at most; a stream that has more is wrong.
    static func decompress(_ input: [UInt8], from start: Int, limit: Int) throws(Invalid) -> [UInt8]
    {
        var inflate = Inflate(input: input, next: start, limit: limit)
        try inflate.run()
        return inflate.output
    }

    private init(input: [UInt8], next: Int, limit: Int) {
        self.input = input
        self.next = next
        self.limit = limit
        output.reserveCapacity(min(limit, 1 << 20))
    }

    private mutating func run() throws(Invalid) {
        var isLast = false
        while !isLast {
            isLast = try take(1) == 1
            switch try take(2) {
            case 0: try copyStored()
            case 1: try inflate(Self.fixedLiterals, Self.fixedDistances)
            case 2:
                let (literals, distances) = try readCodes()
                try inflate(literals, distances)
            default: throw Invalid(reason: "unknown kind of block")
            }
        }
    }

    private mutating func take(_ count: Int) throws(Invalid) -> Int {
        while bitCount < count {
            guard next < input.count else { throw Invalid(reason: "the data ends early") }
            bits |= UInt32(input[next]) << UInt32(bitCount)
            next += 1
            bitCount += 8
        }
        let value = Int(bits & (1 << UInt32(count) - 1))
        bits >>= UInt32(count)
        bitCount -= count
        return value
    }

    private mutating func copyStored() throws(Invalid) {
        // Whole bytes that were taken already are given back.
        next -= bitCount / 8
        (bits, bitCount) = (0, 0)
        let length = try take(16)
        guard try take(16) == length ^ 0xFFFF else { throw Invalid(reason: "bad length") }
        guard length <= input.count - next else { throw Invalid(reason: "the data ends early") }
        try checkRoom(length)
        output += input[next..<(next + length)]
        next += length
    }

    private func checkRoom(_ count: Int) throws(Invalid) {
        if count > limit - output.count { throw Invalid(reason: "more data than there may be") }
    }

    // MARK: Codes

    /// A canonical Huffman code: how many codes each length has, and their symbols in order.
    private struct Code {
        var counts = [Int](repeating: 0, count: 16)
        var symbols: [Int] = []

        init(_ lengths: [Int]) throws(Invalid) {
            for length in lengths { counts[length] += 1 }
            counts[0] = 0
            var left = 1
            for length in 1...15 {
                left = left * 2 - counts[length]
                if left < 0 { throw Invalid(reason: "a code has too many words") }
            }
            for length in 1...15 {
                for symbol in lengths.indices where lengths[symbol] == length {
                    symbols.append(symbol)
                }
            }
        }
    }

    private mutating func decode(_ code: Code) throws(Invalid) -> Int {
        var word = 0
        var first = 0
        var index = 0
        for length in 1...15 {
            word |= try take(1)
            let count = code.counts[length]
            if word - count < first { return code.symbols[index + word - first] }
            index += count
            first = (first + count) << 1
            word <<= 1
        }
        throw Invalid(reason: "a word of no code")
    }

    private static let fixedLiterals = try! Code(
        [Int](repeating: 8, count: 144) + [Int](repeating: 9, count: 112)
            + [Int](repeating: 7, count: 24) + [Int](repeating: 8, count: 8))
    private static let fixedDistances = try! Code([Int](repeating: 5, count: 30))
    private static let order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]

    private mutating func readCodes() throws(Invalid) -> (Code, Code) {
        let literalCount = try take(5) + 257
        let distanceCount = try take(5) + 1
        let lengthCount = try take(4) + 4
        guard literalCount <= 286, distanceCount <= 30 else {
            throw Invalid(reason: "a code has too many words")
        }
        var lengths = [Int](repeating: 0, count: 19)
        for index in 0..<lengthCount { lengths[Self.order[index]] = try take(3) }
        let code = try Code(lengths)
        lengths = []
        while lengths.count < literalCount + distanceCount {
            let symbol = try decode(code)
            switch symbol {
            case 0..<16: lengths.append(symbol)
            case 16:
                guard let last = lengths.last else { throw Invalid(reason: "nothing to repeat") }
                lengths += [Int](repeating: last, count: 3 + (try take(2)))
            case 17: lengths += [Int](repeating: 0, count: 3 + (try take(3)))
            default: lengths += [Int](repeating: 0, count: 11 + (try take(7)))
            }
        }
        guard lengths.count == literalCount + distanceCount, lengths[256] != 0 else {
            throw Invalid(reason: "bad lengths of codes")
        }
        return (
            try Code(Array(lengths[..<literalCount])), try Code(Array(lengths[literalCount...]))
        )
    }

    private static let lengthBases = [
        3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115,
        131, 163, 195, 227, 258,
    ]
    private static let lengthBits = [
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
    ]
    private static let distanceBases = [
        1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
        2049, 3073, 4097, 6145, 8193, 12_289, 16_385, 24_577,
    ]

    private mutating func inflate(_ literals: Code, _ distances: Code) throws(Invalid) {
        while true {
            let symbol = try decode(literals)
            if symbol < 256 {
                try checkRoom(1)
                output.append(UInt8(symbol))
                continue
            }
            if symbol == 256 { return }
            guard symbol - 257 < Self.lengthBases.count else { throw Invalid(reason: "bad length") }
            let length =
                Self.lengthBases[symbol - 257] + (try take(Self.lengthBits[symbol - 257]))
            let code = try decode(distances)
            guard code < Self.distanceBases.count else { throw Invalid(reason: "bad distance") }
            let extra = code < 4 ? 0 : code / 2 - 1
            let distance = Self.distanceBases[code] + (try take(extra))
            guard distance <= output.count else { throw Invalid(reason: "bad distance") }
            try checkRoom(length)
            let start = output.count - distance
            for offset in 0..<length { output.append(output[start + offset]) }
        }
    }
}
