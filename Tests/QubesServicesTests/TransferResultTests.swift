import Glibc
import Testing

@testable import QubesServices

@Suite struct TransferResultTests {
    @Test func isLaidOutAsSpecified() {
        let result = TransferResult(code: 17, checksum: 0x0102_0304, lastName: Array("ab".utf8))
        #expect(
            result.encoded == [
                17, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0, 2, 0, 0, 0, 97, 98,
            ])
        #expect(TransferResult(result.encoded.span) == result)
    }

    @Test func mayLackTheName() {
        let result = TransferResult(code: 0, checksum: 9, lastName: nil)
        #expect(result.encoded.count == 16)
        #expect(TransferResult(result.encoded.span) == result)
        #expect(TransferResult(result.encoded.span.extracting(..<15)) == nil)
    }

    @Test func takesNegatedNumbersOfOldReceivers() {
        let result = TransferResult(code: UInt32(bitPattern: -84), checksum: 0, lastName: nil)
        #expect(TransferResult(result.encoded.span)?.code == 84)
    }

    @Test(
        arguments: [(0, 0), (17, 17), (84, 84), (31_415_926, 118), (256, 1)] as [(UInt32, Int32)])
    func givesTheExitStatus(code: UInt32, status: Int32) {
        #expect(TransferResult(code: code, checksum: 0, lastName: nil).exitStatus == status)
    }

    @Test func showsNothingButPrintableCharacters() {
        #expect(
            displayable(Array("a\u{1B}[2Jü\"b".utf8)) == "a_[2J___b"
        )
    }

    @Test(arguments: [
        (UInt32(EEXIST), "exists already"), (UInt32(ENOSPC), "disk is full"),
        (UInt32(EILSEQ), "refuses this name"), (UInt32(ENOLINK), "symbolic link"),
        (UInt32(EDQUOT), "limit"), (TransferResult.brokenOff, "break off"),
        (99_999, "unknown error"),
    ])
    func explainsItself(code: UInt32, words: String) {
        let result = TransferResult(code: code, checksum: 0, lastName: Array("dir/na\nme".utf8))
        let text = TransferProblem.describe(result)
        #expect(text.hasPrefix("\"dir/na_me\": "))
        #expect(text.contains(words))
    }
}
