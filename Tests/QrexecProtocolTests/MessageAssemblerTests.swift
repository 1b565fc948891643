import Testing

@testable import QrexecProtocol

@Suite struct Assembling {
    /// Takes bodies of up to 20000 bytes of any message but HELLO.
    static func assembler() -> MessageAssembler {
        MessageAssembler { (type, length) throws(ProtocolError) in
            if type == .hello { throw .unexpectedType(type, state: "in this test") }
            if length > 20000 { throw .tooLong(length: length, limit: 20000) }
        }
    }

    @Test(arguments: [1, 2, 7, 8, 9, 100, 1 << 20])
    func messagesArriveWholeHoweverTheStreamIsCut(piece: Int) throws {
        var assembler = Self.assembler()
        let bodies = [0, 1, 40, 9000, 20000, 0, 3].map { pattern($0) }
        let stream = bodies.flatMap { encoded(.justExec, $0) }
        var got: [[UInt8]] = []
        for start in stride(from: 0, to: stream.count, by: piece) {
            assembler.append(stream[start..<min(start + piece, stream.count)])
            while let message = try assembler.next() {
                #expect(message.type == .justExec)
                got.append(message.body)
            }
        }
        #expect(got == bodies)
        #expect(!assembler.isIncomplete)
    }

    private func pattern(_ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ count) }
    }

    @Test func aMessageThatHasBegunIsIncomplete() throws {
        var assembler = Self.assembler()
        #expect(!assembler.isIncomplete)
        assembler.append(encoded(.justExec, [1, 2, 3]).dropLast())
        #expect(try assembler.next() == nil)
        #expect(assembler.isIncomplete)
    }

    @Test(arguments: [0, 0x18F, 0x194, 0x204, 0x20F, 0x214, 0x301, .max] as [UInt32])
    func anUnknownTypeEndsTheStreamAtItsHeader(type: UInt32) {
        var assembler = Self.assembler()
        var header: [UInt8] = []
        header.append(little: type)
        header.append(little: .max)
        assembler.append(header[...])
        #expect(throws: ProtocolError.unknownType(type)) { _ = try assembler.next() }
        // And for good.
        assembler.append(encoded(.justExec, [])[...])
        #expect(throws: ProtocolError.unknownType(type)) { _ = try assembler.next() }
    }

    @Test(arguments: [20001, 65536, 1 << 31, .max] as [UInt32])
    func aLengthIsCheckedBeforeItsBodyIsWaitedFor(length: UInt32) {
        var assembler = Self.assembler()
        var header: [UInt8] = []
        header.append(little: MessageType.justExec.rawValue)
        header.append(little: length)
        assembler.append(header[...])
        #expect(throws: ProtocolError.tooLong(length: Int(length), limit: 20000)) {
            _ = try assembler.next()
        }
    }

    @Test func whatCameBeforeAnErrorIsDelivered() throws {
        var assembler = Self.assembler()
        assembler.append((encoded(.justExec, [9]) + encoded(.hello, [4, 0, 0, 0]))[...])
        #expect(try assembler.next()?.body == [9])
        #expect(throws: ProtocolError.unexpectedType(.hello, state: "in this test")) {
            _ = try assembler.next()
        }
    }
}
