import LinuxSystem
import Testing

@Suite struct CRC32Tests {
    @Test(arguments: [
        ("", 0), ("a", 0xE8B7_BE43), ("123456789", 0xCBF4_3926),
        ("The quick brown fox jumps over the lazy dog", 0x414F_A339),
    ])
    func givesTheKnownChecksumOfText(text: String, expected: UInt32) {
        var fast = CRC32()
        var slow = CRC32()
        fast.update(Array(text.utf8).span)
        slow.updateByTable(Array(text.utf8).span)
        #expect(fast.value == expected)
        #expect(slow.value == expected)
    }

    @Test func instructionsAndTableAgreeOnEveryLengthAndAlignment() {
        var random = SystemRandomNumberGenerator()
        let bytes = (0..<1200).map { _ in UInt8.random(in: 0...255, using: &random) }
        for start in 0..<17 {
            for length in 0..<600 {
                var fast = CRC32()
                var slow = CRC32()
                let piece = bytes.span.extracting(start..<(start + length))
                fast.update(piece)
                slow.updateByTable(piece)
                #expect(fast == slow, "start \(start), length \(length)")
            }
        }
    }

    @Test func piecesGiveTheChecksumOfTheWhole() {
        let bytes = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 7 ^ $0 >> 8) }
        var whole = CRC32()
        whole.update(bytes.span)
        var pieces = CRC32()
        var start = 0
        var length = 1
        while start < bytes.count {
            let end = min(start + length, bytes.count)
            pieces.update(bytes.span.extracting(start..<end))
            (start, length) = (end, length * 3 % 1021 + 1)
        }
        #expect(whole == pieces)
    }
}
