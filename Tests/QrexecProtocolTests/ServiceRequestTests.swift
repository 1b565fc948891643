import Testing

@testable import QrexecProtocol

@Suite struct ServiceRequests {
    static let types: [MessageType] = [.triggerService, .triggerService3, .triggerService4]

    /// A request as it lies on the wire.
    static func body(
        _ type: MessageType, source: [UInt8] = [], target: [UInt8] = bytes("work"),
        ident: [UInt8] = field("SOCKET1", 32), service: [UInt8]
    ) -> [UInt8] {
        switch type {
        case .triggerService: return padded(service, 64) + padded(target, 32) + ident
        case .triggerService3: return padded(target, 64) + ident + service
        default: return padded(source, 64) + padded(target, 64) + ident + service
        }
    }

    @Test(arguments: types) func aRequestComesBackAsItWasSent(type: MessageType) throws {
        let request = ServiceRequest(
            claimedSource: type == .triggerService4 ? "remote" : "", target: "@default",
            ident: ident, service: "qubes.VMShell+a+b")
        let parsed = try ServiceRequest.parse(type, request.body(type)).get()
        #expect(parsed == request)
        #expect(parsed.ident == ident)
    }

    @Test(arguments: zip([0, 127, 129, 160, 65536], [0, 127, 129, 160, 65536]))
    func version2RequestsHave128Bytes(length: Int, same: Int) {
        #expect(
            throws: ProtocolError.badLength(.triggerService, length: same, expected: "128")
        ) {
            try ServiceRequest.checkLength(length, of: .triggerService)
        }
    }

    /// QSB-089: the fixed part alone, with no byte of a name behind it, must not pass.
    @Test(arguments: [(MessageType.triggerService3, 96), (.triggerService4, 160)])
    func laterRequestsAreLongerThanTheirFixedPart(type: MessageType, fixed: Int) throws {
        for length in [0, 1, 8, fixed - 1, fixed, fixed + 65001, Int(UInt32.max)] {
            #expect(throws: ProtocolError.self, "\(length)") {
                try ServiceRequest.checkLength(length, of: type)
            }
        }
        for length in [fixed + 1, fixed + 2, fixed + 65000] {
            try ServiceRequest.checkLength(length, of: type)
        }
        #expect(throws: ProtocolError.self) {
            _ = try ServiceRequest.parse(type, [UInt8](repeating: 0, count: fixed))
        }
    }

    @Test(arguments: types) func otherMessagesAreNoRequests(type: MessageType) {
        #expect(throws: ProtocolError.self) {
            _ = try ServiceRequest.parse(.hello, Self.body(type, service: bytes("a\0")))
        }
    }

    @Test(arguments: [
        [0], bytes("a"), bytes("+a\0"), bytes("+\0"), bytes("a\0b\0"), bytes("a\0\0"),
        [UInt8](repeating: 0x61, count: 256) + [0],
    ])
    func aMalformedServiceRefusesTheRequestAndKeepsTheChannel(service: [UInt8]) throws {
        for type in [MessageType.triggerService3, .triggerService4] {
            let raw = [UInt8](1...32)
            #expect(throws: RequestRefusal.self) {
                _ = try ServiceRequest.parse(type, Self.body(type, service: service)).get()
            }
            let parsed = try ServiceRequest.parse(
                type, Self.body(type, ident: raw, service: service))
            guard case .failure(let refusal) = parsed else {
                Issue.record("accepted")
                return
            }
            #expect(refusal.identField == raw)
        }
    }

    @Test(arguments: [padded([], 64), padded(bytes("+x"), 64), [UInt8](repeating: 0x61, count: 64)])
    func aMalformedVersion2ServiceRefusesTheRequest(service: [UInt8]) throws {
        let parsed = try ServiceRequest.parse(
            .triggerService, service + field("work", 32) + ident.field)
        #expect(throws: RequestRefusal.self) { _ = try parsed.get() }
    }

    @Test func serviceNamesMayHave255BytesAndArgumentsMore() throws {
        let name = [UInt8](repeating: 0x61, count: 255)
        for service in [
            name + [0], name + bytes("+") + [UInt8](repeating: 0x62, count: 9000) + [0],
        ] {
            let parsed = try ServiceRequest.parse(
                .triggerService4, Self.body(.triggerService4, service: service)
            ).get()
            #expect(parsed.service.utf8.count == service.count - 1)
        }
    }

    @Test(arguments: types) func bytesThatAreNoTextBecomeOneUnderscoreEach(
        type: MessageType
    ) throws {
        let body = Self.body(
            type, source: [0x72, 0xC3], target: [0xFF, 0x77, 0x2F, 0x0A],
            service: [0x61, 0xC3, 0xA4, 0x2E, 0x2F, 0x2B, 0x20, 0x62, 0])
        let parsed = try ServiceRequest.parse(type, body).get()
        #expect(parsed.sanitised.service == "a__._+_b")
        #expect(parsed.sanitised.target == "_w__")
        #expect(parsed.sanitised.claimedSource == (type == .triggerService4 ? "r_" : ""))
        #expect(parsed.sanitised.identField == parsed.identField)
    }

    @Test func aTargetWithoutANULIsCutToItsField() throws {
        let parsed = try ServiceRequest.parse(
            .triggerService3,
            Self.body(
                .triggerService3, target: [UInt8](repeating: 0x74, count: 64),
                service: bytes("a\0"))
        ).get()
        #expect(parsed.target == String(repeating: "t", count: 63))
    }

    @Test(arguments: types) func theAgentReplacesTheWholeIdentAndNothingElse(
        type: MessageType
    ) throws {
        let dirty = [UInt8](repeating: 0xEE, count: 32)
        let body = Self.body(type, source: bytes("r"), ident: dirty, service: bytes("svc+1\0"))
        let own = ServiceRequest.replacingIdent(type, body, with: ident)
        #expect(own.count == body.count)
        let parsed = try ServiceRequest.parse(type, own).get()
        #expect(parsed.ident == ident)
        #expect(parsed.target == "work")
        #expect(parsed.service == "svc+1")
    }
}
