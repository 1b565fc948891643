import Testing

@testable import QrexecProtocol

/// Random and damaged messages: a value or a typed error, never a crash.
@Suite struct HostileInput {
    static let valid: [[UInt8]] = [
        Hello(version: .v4).body,
        place.body,
        ExecRequest(connect: place, command: bytes("user:QUBESRPC a+b c")).body,
        ServiceConnect(connect: place, ident: ident).body,
        ident.field,
        ServiceRequest(claimedSource: "", target: "t", ident: ident, service: "a+b")
            .body(.triggerService),
        ServiceRequest(claimedSource: "", target: "t", ident: ident, service: "a+b")
            .body(.triggerService3),
        ServiceRequest(claimedSource: "s", target: "t", ident: ident, service: "a+b")
            .body(.triggerService4),
        bytes("user:nogui:QUBESRPC a+b c keyword d"),
        bytes(PolicyAnswers.allow),
    ]

    private func parseAll(_ input: [UInt8]) {
        _ = MessageHeader(input)
        _ = try? Hello(body: input)
        _ = try? ConnectParameters(body: input, of: .connectionTerminated)
        if let exec = try? ExecRequest(body: input, of: .justExec) { #expect(exec.body == input) }
        if let connect = try? ServiceConnect(body: input) { #expect(connect.body == input) }
        if let refused = try? ServiceRefused(body: input) { _ = refused.ident }
        for type in ServiceRequests.types {
            guard case .success(let request)? = try? ServiceRequest.parse(type, input) else {
                continue
            }
            let clean = request.sanitised
            #expect(clean.service.utf8.allSatisfy(Names.isServiceCharacter))
            #expect(clean.target.utf8.allSatisfy(Names.isTargetCharacter))
            #expect(clean.claimedSource.utf8.allSatisfy(Names.isTargetCharacter))
            #expect(request.ident != nil)
        }
        for hasUser in [true, false] {
            guard let command = try? Command(input, hasUser: hasUser) else { continue }
            if case .service(let call) = command.kind {
                #expect(!call.descriptor.contains("/"))
                #expect((1...255).contains(call.service.utf8.count))
            }
        }
        if let answer = try? PolicyAnswer(bytes: input), let permission = answer.permission {
            #expect(!permission.user.utf8.contains(0x0A))
            #expect(!permission.target.utf8.contains(0x0A))
        }
    }

    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func parsersSurviveDamagedMessages(seed: UInt64) {
        var random = Seeded(seed)
        for _ in 0..<2000 {
            for message in Self.valid { parseAll(random.mutated(message)) }
        }
    }

    @Test func parsersSurviveRandomBytes() {
        var random = Seeded(5)
        for round in 0..<4000 { parseAll(random.bytes(round % 300)) }
    }

    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func theAssemblerSurvivesHostileStreams(seed: UInt64) {
        var random = Seeded(seed)
        for _ in 0..<300 {
            var assembler = Assembling.assembler()
            var stream: [UInt8] = []
            for message in Self.valid.shuffled(using: &random) {
                stream += encoded(.justExec, message)
            }
            if Bool.random(using: &random) { stream = random.mutated(stream) }
            while !stream.isEmpty {
                let count = min(stream.count, Int.random(in: 1...300, using: &random))
                assembler.append(stream.prefix(count))
                stream.removeFirst(count)
                do { while try assembler.next() != nil {} } catch { break }
            }
        }
    }
}
