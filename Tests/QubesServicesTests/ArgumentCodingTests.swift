import Testing

@testable import QubesServices

@Suite struct ArgumentCodingTests {
    private func words(_ text: String) throws -> [String] {
        try ArgumentCoding.decode(text).map { String(decoding: $0, as: UTF8.self) }
    }

    @Test(arguments: [
        (["ls", "-l", "/"], "ls+--l+-2F"), (["a b"], "a-20b"), (["x", "", "y"], "x++y"),
        (["Az09._"], "Az09._"), (["--"], "----"), (["ä"], "-C3-A4"), (["a+b"], "a-2Bb"),
        (["x", ""], "x+"), (["a\nb"], "a-0Ab"),
    ])
    func writesWordsAsTheSpecificationSays(command: [String], text: String) throws {
        #expect(ArgumentCoding.encode(command.map { Array($0.utf8) }) == text)
        #expect(try words(text) == command)
    }

    @Test func everyByteButNULComesBack() throws {
        let command = [Array(UInt8(1)...255), [0xFF, 0xFE], []]
        #expect(try ArgumentCoding.decode(ArgumentCoding.encode(command)) == command)
    }

    /// Whatever a hostile caller can put into an argument, and more.
    @Test(arguments: [
        "", "+", "+ls", "-", "ls+-", "ls+-2", "ls+-2f", "ls+-G0", "ls+-0x", "ls+-+", "-00",
        "ls+-00",
        "ls -l", "ls/x", "ls;id", "ä", "ls+-2 F", "ls+-\u{0}", "a\nb",
    ])
    func refusesWhatIsNoCommand(text: String) {
        #expect(throws: ArgumentCoding.Invalid.self) { try ArgumentCoding.decode(text) }
    }

    @Test func acceptsEscapesThatAreNotNeeded() throws { #expect(try words("-41-2E") == ["A."]) }
}

@Suite struct ShellInputTests {
    @Test(arguments: [
        (["ls"], "ls"), (["a b"], "'a b'"), (["it's"], #"'it'"'"'s'"#), ([""], "''"),
        (["$(id)", "`id`"], "'$(id)' '`id`'"), (["-l", "/x"], "-l /x"),
    ])
    func quotesSoThatAShellSeesTheWords(words: [String], text: String) {
        #expect(ShellInput.quoted(words) == text)
    }

    @Test func endsTheShellAfterTheCommand() {
        #expect(ShellInput.text("ls") == "ls; exit\n")
        #expect(ShellInput.text("dir", isWindows: true) == "dir& exit\n")
    }
}
