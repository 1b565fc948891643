import Foundation
import QrexecPolicy
import Testing

@testable import QrexecDom0

@Suite("Changing policy files")
struct PolicyAdminTests {
    /// A policy directory that goes away with it.
    private final class Place {
        let root = NSTemporaryDirectory() + "admin-\(UUID().uuidString.prefix(8))"
        let admin: PolicyAdmin

        init(_ files: [String: String] = [:]) throws {
            admin = PolicyAdmin(directory: root + "/policy.d")
            try FileManager.default.createDirectory(
                atPath: root + "/policy.d/include", withIntermediateDirectories: true)
            for (name, text) in files {
                try text.write(
                    toFile: root + "/policy.d/" + name, atomically: false, encoding: .utf8)
            }
        }

        deinit { try? FileManager.default.removeItem(atPath: root) }

        func text(_ name: String) -> String? {
            try? String(contentsOfFile: root + "/policy.d/" + name, encoding: .utf8)
        }
    }

    private func failure(_ body: () throws(PolicyAdmin.Failure) -> Void) -> PolicyAdmin.Failure
        .Kind?
    {
        do throws(PolicyAdmin.Failure) {
            try body()
            return nil
        } catch {
            return error.kind
        }
    }

    private let rule = Array("* * work vault allow\n".utf8)

    @Test(
        "A file to include is checked before anything includes it",
        arguments: [
            ("* * work vault allow\n", true), ("$anyvm dom0 allow,user=root\n", true), ("", true),
            ("* * work vault alow\n", false), ("work vault\n", false), ("\u{1}\n", false),
            ("!include include/none\n", false),
        ])
    func unreferencedInclude(_ text: String, _ isGood: Bool) throws {
        let place = try Place()
        let file = try PolicyAdmin.File("mine", isInclude: true)
        let problem = failure { () throws(PolicyAdmin.Failure) in
            try place.admin.replace(file, with: Array(text.utf8), token: "new")
        }
        #expect(problem == (isGood ? nil : .syntax))
        #expect(place.text("include/mine") == (isGood ? text : nil))
    }

    @Test("A new file is made, replaced with its token, and removed")
    func life() throws {
        let place = try Place()
        let file = try PolicyAdmin.File("30-user", isInclude: false)
        try place.admin.replace(file, with: rule, token: "new")
        #expect(try place.admin.get(file) == rule)
        let token = PolicyAdmin.token(rule)
        let other = Array("* * work vault deny\n".utf8)
        try place.admin.replace(file, with: other, token: token)
        #expect(
            failure { () throws(PolicyAdmin.Failure) in
                try place.admin.replace(file, with: rule, token: token)
            } == .token)
        #expect(place.text("30-user.policy") == "* * work vault deny\n")
        try place.admin.remove(file, token: PolicyAdmin.token(other))
        #expect(place.text("30-user.policy") == nil)
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: place.admin.directory)
                == ["include"])
    }

    @Test("What would make the whole policy unusable is refused and nothing changes")
    func validation() throws {
        let place = try Place(["30-user.policy": "!include include/x\n", "include/x": ""])
        let user = try PolicyAdmin.File("30-user", isInclude: false)
        let include = try PolicyAdmin.File("x", isInclude: true)
        #expect(
            failure { () throws(PolicyAdmin.Failure) in
                try place.admin.replace(user, with: Array("bad\n".utf8), token: "any")
            } == .syntax)
        #expect(
            failure { () throws(PolicyAdmin.Failure) in
                try place.admin.replace(include, with: Array("bad\n".utf8), token: "any")
            } == .syntax)
        #expect(
            failure { () throws(PolicyAdmin.Failure) in
                try place.admin.remove(include, token: "any")
            } == .syntax)
        #expect(place.text("30-user.policy") == "!include include/x\n")
        #expect(place.text("include/x") == "")
    }

    @Test(
        "A name that the loader would not take is refused",
        arguments: [
            ("Upper", PolicyAdmin.Failure.Kind.invalidName), ("a.b", .invalidName),
            ("a+b", .invalidName), ("..", .invalidName), ("", .protocolError),
            ("a/b", .protocolError), ("ü", .protocolError), ("a b", .protocolError),
        ])
    func names(name: String, kind: PolicyAdmin.Failure.Kind) {
        #expect(
            failure { () throws(PolicyAdmin.Failure) in
                _ = try PolicyAdmin.File(name, isInclude: false)
            } == kind)
    }

    @Test("A link that leads out of the directory is not followed")
    func links() throws {
        let place = try Place()
        try "secret".write(toFile: place.root + "/secret", atomically: false, encoding: .utf8)
        try FileManager.default.createSymbolicLink(
            atPath: place.root + "/policy.d/include/x", withDestinationPath: "../../secret")
        let file = try PolicyAdmin.File("x", isInclude: true)
        #expect(
            failure { () throws(PolicyAdmin.Failure) in
                _ = try place.admin.get(file)
            } == .invalidPath)
        #expect(
            failure { () throws(PolicyAdmin.Failure) in
                try place.admin.replace(file, with: [], token: "any")
            } == .invalidPath)
    }

    @Test("Files about a service are those with its rules, in their order")
    func filesAbout() throws {
        let place = try Place([
            "10-a.policy": "a.X * work vault allow\n", "20-b.policy": "b.X * work vault allow\n",
            "30-c.policy": "!include include/all\n", "include/all": "* * * * deny\n",
        ])
        #expect(
            try place.admin.files(about: "a.X")
                == ["10-a", place.root + "/policy.d/include/all"])
    }

    @Test("An argument is registered once, and never over a rule that is there")
    func register() throws {
        let place = try Place(["30-user.policy": "u2f.Auth +old work usb deny\n"])
        func register(_ argument: String) -> PolicyAdmin.Failure.Kind? {
            failure { () throws(PolicyAdmin.Failure) in
                try place.admin.register(
                    service: "u2f.Auth", argument: argument, frontend: "work", backend: "usb")
            }
        }
        #expect(register("one") == nil)
        #expect(register("two") == nil)
        #expect(register("one") == .failed)
        #expect(register("old") == .failed)
        #expect(
            place.text("60-registered-arguments.policy")
                == "u2f.Auth +one work usb allow\nu2f.Auth +two work usb allow\n")
    }
}
