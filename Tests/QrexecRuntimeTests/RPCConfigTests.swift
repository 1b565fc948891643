import LinuxSystem
import QrexecProtocol
import Testing

@testable import QrexecRuntime

@Suite struct ServiceSettings {
    private func parse(_ text: [UInt8]) throws -> RPCConfig {
        try RPCConfig(text: text, path: "f") { _ in }
    }

    @Test(arguments: [
        "", "\n\n", "\r\n", "# comment", "#\u{301} an accent behind the sign", "other = 1",
        "other='it is # no comment' # but this is", "a.b-c_9 = 18446744073709551615\n",
        "wait-for-session = 0", "wait-for-session=false", "x='\u{FC}\u{301}'",
    ])
    func whatSetsNothingLeavesTheStandardSettings(text: String) throws {
        #expect(try parse(bytes(text)) == RPCConfig())
    }

    @Test(arguments: [
        "wait-for-session=1", "wait-for-session = true", "wait-for-session\t=\ttrue\t ",
        "wait-for-session=1#x", "wait-for-session=true # x\r\n", "\n#\nwait-for-session=1\r\n",
    ])
    func blanksCommentsAndLineEndsAreFree(text: String) throws {
        #expect(try parse(bytes(text)).waitForSession)
    }

    @Test func everyKeyIsKnown() throws {
        let config = try parse(
            bytes("skip-service-descriptor=true\nexit-on-client-eof=true\nexit-on-service-eof=true")
        )
        #expect(config.skipServiceDescriptor && config.exitOnClientEOF && config.exitOnServiceEOF)
        #expect(try parse(bytes("force-user = 'root'")).forceUser == "root")
        #expect(
            try parse(bytes("force-user='u'\nexit-on-client-eof=false")).forceUser == "u")
    }

    @Test(arguments: [
        " wait-for-session=1", "  ", "\t", "x", "=1", "1x=1", "-x=1", "x y=1", "[section]",
        "x=", "x=1 2", "x=01", "x=00", "x=-1", "x=+1", "x=18446744073709551616", "x=1.0", "x=0x1",
        "x=True", "x=yes", "x=\"text\"", "x='open", "x='a'b", "x=''''", "x='''a'''", "x='a' 'b'",
        "x=true false", "x==1", "\u{E4}=1", "x=1\u{301}", "wait-for-session=2",
        "wait-for-session='1'", "force-user=1", "force-user=root", "force-user=''",
        "force-user=true", "skip-service-descriptor=1", "exit-on-client-eof='true'",
        "exit-on-service-eof=0", "wait-for-session=1\nwait-for-session=1",
        "force-user='a'\nskip-service-descriptor=true", "exit-on-client-eof=true\nforce-user='a'",
        "exit-on-service-eof=true\nforce-user='a'",
    ])
    func anythingElseIsInvalid(text: String) {
        #expect(throws: RPCConfig.Invalid.self) { _ = try parse(bytes(text)) }
    }

    @Test(arguments: ["x=1\0", "\0", "#\0", "x='\0'"]) func aNULIsInvalidAnywhere(text: String) {
        #expect(throws: RPCConfig.Invalid.self) { _ = try parse(bytes(text)) }
    }

    @Test func anErrorNamesItsLineAndAnUnknownKeyIsTold() {
        #expect(
            throws: RPCConfig.Invalid(
                path: "f", line: 3, reason: "'wait-for-session' is set twice")
        ) {
            _ = try parse(bytes("wait-for-session=1\n\nwait-for-session=1\n"))
        }
        var ignored: [String] = []
        _ = try? RPCConfig(text: bytes("b=1\na='x'\nb=2"), path: "f") { ignored.append($0) }
        #expect(ignored == ["b", "a", "b"])
    }

    @Test func damagedSettingsNeverCrash() {
        var state: UInt64 = 1
        func next(_ limit: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % limit
        }
        let start = bytes("wait-for-session = true # x\r\nforce-user='root'\nx=12\n")
        for _ in 0..<20000 {
            var text = start
            for _ in 0...next(4) { text[next(text.count)] = UInt8(next(256)) }
            _ = try? parse(Array(text.prefix(next(text.count + 1))))
        }
    }
}
