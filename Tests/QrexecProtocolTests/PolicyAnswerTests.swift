import Testing

@testable import QrexecProtocol

@Suite struct PolicyAnswers {
    static let allow =
        "result=allow\nuser=u\ntarget=work\nautostart=True\nrequested_target=@default"

    @Test func aQuestionHasOneLineForEachFactAndAnEmptyOne() {
        var question = PolicyQuestion(
            source: "a", claimedSource: nil, target: "@default", service: "s+x")
        #expect(
            question.bytes
                == bytes("source=a\nintended_target=@default\nservice_and_arg=s+x\n\n"))
        question.claimedSource = ""
        #expect(question.bytes.starts(with: bytes("source=a\nrequested_source=\n")))
    }

    @Test func permissionCarriesEverythingTheCallNeeds() throws {
        let answer = try PolicyAnswer(
            bytes: bytes(
                Self.allow + "\ntarget_uuid=uuid:1\nservice=t+x\npolicy_source=r\nrule=f:3\n"
                    + "new_key=a=b\n"))
        let permission = try #require(answer.permission)
        #expect(permission.user == "u")
        #expect(permission.target == "work")
        #expect(permission.targetUUID == "uuid:1")
        #expect(permission.autostart)
        #expect(permission.requestedTarget == "@default")
        #expect(permission.service == "t+x")
        #expect(permission.policySource == "r")
        #expect(answer.rule == "f:3")
    }

    @Test(arguments: ["result=deny", "result=deny\n", "x=y\nresult=deny\nreason=no\n"])
    func aDenialIsEnoughInOneLine(text: String) throws {
        #expect(try PolicyAnswer(bytes: bytes(text)).permission == nil)
    }

    @Test(arguments: ["user", "target", "autostart", "requested_target", "result"])
    func aPermissionWithoutAKeyIsMalformed(key: String) {
        let lines = Self.allow.split(separator: "\n").filter { !$0.hasPrefix(key + "=") }
        #expect(throws: PolicyAnswer.Malformed.missing(key)) {
            _ = try PolicyAnswer(bytes: bytes(lines.joined(separator: "\n")))
        }
        let emptied = Self.allow.split(separator: "\n").map {
            $0.hasPrefix(key + "=") ? "\(key)=" : String($0)
        }
        #expect(throws: PolicyAnswer.Malformed.self) {
            _ = try PolicyAnswer(bytes: bytes(emptied.joined(separator: "\n")))
        }
    }

    @Test(arguments: ["user", "target", "autostart", "requested_target"])
    func aDenialWithAPermissionsKeyIsMalformed(key: String) {
        #expect(throws: PolicyAnswer.Malformed.notAllowed(key)) {
            _ = try PolicyAnswer(bytes: bytes("result=deny\n\(key)=x"))
        }
    }

    @Test(arguments: [
        "", "\n", "result", "result=", "result=Allow", "result=deny\n\n", "\nresult=deny",
        "result=deny\nresult=deny", "result=deny\r\n", "result=deny\r", "result=deny ",
        " result=deny", "result=deny\0", "result=deny\nx=\0", "result=deny\nx=ä",
        allow + "\nuser=root", allow + "\r\nuser=root", allow + "\nx=y\r\nuser=root",
        allow + "\n\n", allow + "\nx",
        "result=allow\nuser=u\ntarget=t\nautostart=true\nrequested_target=t",
    ])
    func anythingOddIsMalformedAndSoADenial(text: String) {
        #expect(throws: PolicyAnswer.Malformed.self) { _ = try PolicyAnswer(bytes: bytes(text)) }
    }

    @Test func answersHaveAtMost4095Bytes() throws {
        let start = bytes("result=deny\nx=")
        let longest = start + [UInt8](repeating: 0x61, count: 4095 - start.count)
        #expect(try PolicyAnswer(bytes: longest).permission == nil)
        #expect(throws: PolicyAnswer.Malformed.length(4096)) {
            _ = try PolicyAnswer(bytes: longest + [0x61])
        }
    }
}
