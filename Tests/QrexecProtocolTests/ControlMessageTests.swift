import Testing

@testable import QrexecProtocol

@Suite struct ControlMessages {
    @Test func aMessageIsItsTypeItsLengthAndItsBodyLittleEndian() {
        let wire: [UInt8] = [0x00, 0x03, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0]
        #expect(encoded(.hello, Hello(version: .v4).body) == wire)
        #expect(MessageHeader(wire) == MessageHeader(type: 0x300, length: 4))
        #expect(MessageHeader(Array(wire.prefix(7))) == nil)
        #expect(MessageHeader([UInt8](repeating: 0xFF, count: 8))?.length == .max)
    }

    @Test func everyMessageComesBackAsItWasSent() throws {
        #expect(try Hello(body: Hello(version: .v3).body).version == 3)
        #expect(try ConnectParameters(body: place.body, of: .connectionTerminated) == place)
        let exec = ExecRequest(connect: place, command: [0xFF] + bytes("user:true"))
        #expect(try ExecRequest(body: exec.body, of: .justExec) == exec)
        let connect = ServiceConnect(connect: place, ident: ident)
        #expect(try ServiceConnect(body: connect.body) == connect)
        #expect(connect.body.count == 40)
        let refused = ServiceRefused(ident: ident)
        #expect(try ServiceRefused(body: refused.body) == refused)
        #expect(refused.ident == ident)
    }

    @Test(arguments: [0, 1, 3, 5, 8]) func helloHasFourBytes(count: Int) {
        #expect(throws: ProtocolError.badLength(.hello, length: count, expected: "4")) {
            _ = try Hello(body: [UInt8](repeating: 4, count: count))
        }
    }

    @Test(arguments: [0, 7, 9, 40]) func placesHaveEightBytes(count: Int) {
        #expect(throws: ProtocolError.self) {
            _ = try ConnectParameters(
                body: [UInt8](repeating: 1, count: count), of: .connectionTerminated)
        }
    }

    @Test(arguments: [0, 8, 39, 41, 4096]) func anAcceptanceHasFortyBytes(count: Int) {
        #expect(throws: ProtocolError.self) {
            _ = try ServiceConnect(body: [UInt8](repeating: 0, count: count))
        }
    }

    @Test(arguments: [0, 31, 33, 64]) func aRefusalHasThirtyTwoBytes(count: Int) {
        #expect(throws: ProtocolError.self) {
            _ = try ServiceRefused(body: [UInt8](repeating: 0, count: count))
        }
    }

    @Test(arguments: [[], [0x61], [0x61, 0, 0], [0x61, 0, 0x62, 0]] as [[UInt8]])
    func aCommandEndsWithItsOnlyNUL(command: [UInt8]) {
        #expect(throws: ProtocolError.self) {
            _ = try ExecRequest(body: place.body + command, of: .execCommandLine)
        }
    }

    @Test func anEmptyCommandIsTheCommandsOwnProblem() throws {
        let exec = try ExecRequest(body: place.body + [0], of: .execCommandLine)
        #expect(exec.command.isEmpty)
    }
}

@Suite struct Idents {
    @Test(arguments: ["", "SOCKET0", "a b", "A-Z_9.", String(repeating: "x", count: 31)])
    func namesOfOneToThirtyOneAllowedCharactersAreIdents(text: String) throws {
        let made = try #require(RequestIdent(text))
        #expect(made.field.count == 32)
        #expect(try RequestIdent(field: made.field[...]) == made)
    }

    @Test(arguments: ["a+b", "a/b", "a@b", "a:b", "ä", "a\n", String(repeating: "x", count: 32)])
    func otherTextsAreNot(text: String) {
        #expect(RequestIdent(text) == nil)
    }

    @Test(arguments: [
        [UInt8](repeating: 0x61, count: 32),
        padded(bytes("a\0b"), 32),
        padded([0x61, 0x80], 32),
        padded(bytes("a/b"), 32),
        padded([], 31) + [1],
    ])
    func aMalformedFieldIsRefused(field: [UInt8]) throws {
        #expect(throws: ProtocolError.self) { _ = try RequestIdent(field: field[...]) }
        // A refusal carries it all the same, byte for byte.
        let refusal = try ServiceRefused(body: field)
        #expect(refusal.ident == nil)
        #expect(refusal.body == field)
    }
}

@Suite struct Versions {
    @Test(arguments: [0, 1] as [UInt32]) func versionsBelowTwoAreRefused(theirs: UInt32) {
        #expect(throws: ProtocolError.unsupportedVersion(theirs)) {
            _ = try ProtocolVersion.negotiated(theirs: theirs)
        }
    }

    @Test(arguments: zip([2, 3, 4, 5, .max] as [UInt32], [2, 3, 4, 4, 4] as [UInt32]))
    func theLowerVersionIsSpoken(theirs: UInt32, spoken: UInt32) throws {
        #expect(try ProtocolVersion.negotiated(theirs: theirs).rawValue == spoken)
    }

    @Test func eachVersionHasItsRequestAndItsChunk() {
        #expect(ProtocolVersion.v2.triggerType == .triggerService)
        #expect(ProtocolVersion.v3.triggerType == .triggerService3)
        #expect(ProtocolVersion.v4.triggerType == .triggerService4)
        #expect(ProtocolVersion.v2.maximumDataChunk == 4096)
        #expect(ProtocolVersion.v3.maximumDataChunk == 65536)
        #expect(ProtocolVersion.v4.maximumDataChunk == 65536)
    }
}

@Suite struct NameRules {
    @Test(arguments: ["work", "A", "sys-net.1_x", "a" + String(repeating: "9", count: 30)])
    func domainsBeginWithALetter(name: String) { #expect(Names.isDomainName(name)) }

    @Test(arguments: [
        "", "1a", "-a", "_a", "a b", "a/b", "a+b", "a@", "ä", "none", "default", "Domain-0",
        "work-dm", "a\0", "a" + String(repeating: "9", count: 31),
    ])
    func otherNamesAreNoDomains(name: String) { #expect(!Names.isDomainName(name)) }

    @Test func whatIsNotAllowedBecomesAnUnderscoreByteForByte() {
        #expect(Names.sanitised("a.b-c_D9+e", Names.isServiceCharacter) == "a.b-c_D9+e")
        #expect(Names.sanitised("@a:b", Names.isServiceCharacter) == "_a_b")
        #expect(Names.sanitised("@a:b", Names.isTargetCharacter) == "@a:b")
        #expect(Names.sanitised("ä\n/\u{7F}", Names.isTargetCharacter) == "_____")
    }
}
