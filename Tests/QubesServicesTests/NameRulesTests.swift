import Foundation
import Testing

@testable import QubesServices

@Suite struct NameRulesTests {
    private func violation(_ name: String, all: Bool = false) -> NameRules.Violation? {
        violation(Array(name.utf8), all: all)
    }

    private func violation(_ name: [UInt8], all: Bool = false) -> NameRules.Violation? {
        do throws(NameRules.Violation) {
            try NameRules(allowAllNames: all).check(name: name.span)
            return nil
        } catch {
            return error
        }
    }

    private func violation(
        link name: String, _ target: String, _ rules: NameRules = NameRules()
    ) -> NameRules.Violation? {
        do throws(NameRules.Violation) {
            try rules.check(link: Array(name.utf8).span, target: Array(target.utf8).span)
            return nil
        } catch {
            return error
        }
    }

    @Test(arguments: [
        "a", "a/b/c", "with space", " ", "...", "..a", ".hidden", "ünï/cödé", "漢字", "€",
        "a\u{2014}b",
        "\"quoted\"", "back\\slash", "-rf",
    ])
    func acceptsOrdinaryNames(name: String) { #expect(violation(name) == nil) }

    @Test(arguments: [
        "", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "../x", "a/../b", "a/..",
    ])
    func refusesPathsThatCouldEscapeWhateverIsAllowed(name: String) {
        #expect(violation(name) == .path)
        #expect(violation(name, all: true) == .path)
    }

    @Test(arguments: [
        Array("tab\there".utf8), Array("line\nbreak".utf8), [0x1B], [0x7F], [0xC2, 0x80],
        // No-break space, right-to-left override, combining mark, emoji, Hebrew, private use.
        Array("\u{A0}".utf8), Array("\u{202E}".utf8), Array("e\u{301}".utf8),
        Array("\u{1F600}".utf8),
        Array("\u{5D0}".utf8), Array("\u{E000}".utf8),
        // Not UTF-8: lone, overlong, surrogate, beyond the last character, cut off.
        [0x80], [0xC0, 0xAF], [0xE0, 0x80, 0xAF], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80],
        [0xC3],
        [0xE2, 0x82], [0xFF],
    ])
    func refusesUnusualCharactersUnlessAllNamesAreAllowed(name: [UInt8]) {
        #expect(violation(name) == .character)
        #expect(violation(name, all: true) == nil)
    }

    @Test(arguments: [
        ("d/l", "f"), ("d/l", "a/b"), ("d/l", "./f"), ("d/l", "a//b/"), ("d/e/l", "../f"),
        ("d/e/f/l", "../../x"), ("d/l", "."), ("d/l", "..."), ("d/l", ""),
    ])
    func acceptsLinksThatStayInside(name: String, target: String) {
        #expect(violation(link: name, target) == nil)
    }

    @Test(arguments: [
        ("d/l", "/etc/passwd"), ("d/l", ".."), ("d/l", "../x"), ("d/e/l", "../../x"),
        ("d/e/l", "x/../y"), ("d/e/l", "./../../x"), ("d/e/f/l", "../x/../y"),
        ("d/e/l", "..//../x"),
    ])
    func refusesLinksThatLeadOut(name: String, target: String) {
        #expect(violation(link: name, target) == .linkTarget)
        #expect(violation(link: name, target, NameRules(allowAllNames: true)) == .linkTarget)
        #expect(violation(link: name, target, NameRules(allowUnsafeLinks: true)) == nil)
    }

    @Test func refusesLinksDirectlyInTheIncomingDirectory() {
        #expect(violation(link: "l", "f") == .linkAtTop)
        #expect(violation(link: "l", "f", NameRules(allowUnsafeLinks: true)) == nil)
    }

    @Test func appliesTheCharacterRuleToTargetsToo() {
        #expect(violation(link: "d/l", "a\nb") == .character)
        #expect(violation(link: "d/l", "a\nb", NameRules(allowAllNames: true)) == nil)
        #expect(violation(link: "d/l", "a\nb", NameRules(allowUnsafeLinks: true)) == nil)
        #expect(violation(link: "d/\u{7}", "a", NameRules(allowUnsafeLinks: true)) == .character)
    }

    /// The list as it was specified.
    private static func listed() throws -> [ClosedRange<UInt32>] {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("Resources/filename-allowlist.txt")
        return try String(contentsOf: file, encoding: .utf8).split(separator: "\n").compactMap {
            let text = $0.prefix { $0 != "#" }.filter { $0 != " " }
            let ends = text.split(separator: "-").compactMap { UInt32($0, radix: 16) }
            return ends.isEmpty ? nil : ends[0]...ends[ends.count - 1]
        }
    }

    @Test func theTableHasExactlyTheListedCharacters() throws {
        var allowed = [Bool](repeating: false, count: 0x110000)
        for range in try Self.listed() { for scalar in range { allowed[Int(scalar)] = true } }
        #expect(allowed.count { $0 } > 100_000)
        let different = (0..<UInt32(0x110000)).filter {
            allowed[Int($0)] != AllowedCharacters.contains($0)
        }
        #expect(different == [])
    }
}
