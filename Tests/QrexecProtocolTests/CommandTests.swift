import Testing

@testable import QrexecProtocol

@Suite struct Commands {
    @Test(arguments: [
        "user:QUBESRPC qubes.VMShell+ work", "root:nogui:QUBESRPC a+b+c dom0",
        "DEFAULT:QUBESRPC svc @adminvm", "user:nogui:touch /tmp/a:b", "user:", ":x",
        "user:QUBESRPC a b keyword default", "user:QUBESRPC a b name work",
    ])
    func aCommandForAQubeComesBackAsItWasSent(text: String) throws {
        #expect(try Command(bytes(text), hasUser: true).bytes == bytes(text))
    }

    @Test func aServiceCommandNamesUserServiceArgumentAndSource() throws {
        let command = try Command(bytes("bob:nogui:QUBESRPC svc+a+b src"), hasUser: true)
        #expect(command.user == "bob")
        #expect(command.noGUI)
        let call = ServiceCall(descriptor: "svc+a+b", source: "src")
        #expect(command.kind == .service(call))
        #expect(call.service == "svc")
        #expect(call.argument == "a+b")
    }

    @Test func commandsForDom0NameNoUserAndMayNameTheTarget() throws {
        let command = try Command(
            bytes("QUBESRPC svc+ src keyword dispvm:x"), hasUser: false)
        #expect(command.user == nil)
        #expect(
            command.kind
                == .service(
                    ServiceCall(
                        descriptor: "svc+", source: "src",
                        requestedTarget: .init(requested: "@dispvm:x"))))
    }

    @Test func aShellCommandNeedNotBeText() throws {
        let command = try Command(bytes("u:") + [0xFF, 0x3A, 0x80], hasUser: true)
        #expect(command.kind == .shell([0xFF, 0x3A, 0x80]))
        #expect(command.bytes == bytes("u:") + [0xFF, 0x3A, 0x80])
    }

    @Test(arguments: [
        "", "QUBESRPC a b", "u:QUBESRPC", "u:QUBESRPC ", "u:QUBESRPCx a b", "u:QUBESRPC a",
        "u:QUBESRPC  a b", "u:QUBESRPC a  b", "u:QUBESRPC a b ", "u:QUBESRPC a b c",
        "u:QUBESRPC a b name", "u:QUBESRPC a b other c", "u:QUBESRPC a b name c d",
        "u:QUBESRPC a b name ", "u:QUBESRPC + b", "u:QUBESRPC +x b", "u:QUBESRPC a/b c",
        "u:QUBESRPC ../a c", "u:QUBESRPC a+/b c", "u:QUBESRPC a\tb c", "u:QUBESRPC a\u{7F} c",
        "u:QUBESRPC ä c", "u:nogui:QUBESRPC a",
    ])
    func aMalformedServiceCommandIsRefused(text: String) {
        #expect(throws: ProtocolError.self) { _ = try Command(bytes(text), hasUser: true) }
    }

    @Test func namesHaveAtMost255BytesAndDescriptors65000() throws {
        func call(_ name: Int, _ argument: Int) throws -> ServiceCall {
            try ServiceCall(
                words: String(repeating: "n", count: name) + "+"
                    + String(repeating: "a", count: argument) + " src")
        }
        #expect(try call(255, 0).argument == "")
        #expect(try call(255, 65000 - 256).descriptor.utf8.count == 65000)
        #expect(throws: ProtocolError.self) { _ = try call(256, 0) }
        #expect(throws: ProtocolError.tooLong(length: 65001, limit: 65000)) {
            _ = try call(255, 65000 - 255)
        }
    }

    @Test func aCallWithoutAPlusHasNoArgument() throws {
        #expect(try ServiceCall(words: "a b").argument == nil)
        #expect(try ServiceCall(words: "a+ b").argument == "")
    }

    @Test(arguments: zip(["work", "@default", "@", "uuid:1"], ["work", "default", "", "uuid:1"]))
    func aKeywordLosesItsSign(requested: String, text: String) {
        let target = ServiceCall.RequestedTarget(requested: requested)
        #expect(target.text == text)
        #expect((target.kind == .keyword) == requested.hasPrefix("@"))
    }
}
