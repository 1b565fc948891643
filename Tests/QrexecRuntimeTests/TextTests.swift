import Testing

@testable import QrexecRuntime

@Suite struct ParsingOptions {
    static let parser = OptionParser([
        .init(short: "h", long: "help"), .init(short: "t"),
        .init(short: "p", long: "prefix", takesValue: true), .init(long: "long-only"),
    ])

    private func parse(
        _ arguments: [String], _ parser: OptionParser = parser
    ) throws -> (seen: [String], operands: [String]) {
        var seen: [String] = []
        let operands = try parser.parse(arguments) { name, value in
            seen.append(value.isEmpty ? name : "\(name)=\(value)")
        }
        return (seen, operands)
    }

    @Test(
        arguments: [
            (["-h", "a"], ["help"], ["a"]), (["-th"], ["t", "help"], []),
            (["-tpx"], ["t", "prefix=x"], []), (["-p", "-h"], ["prefix=-h"], []),
            (["--prefix=a=b"], ["prefix=a=b"], []),
            (["--prefix", "--help"], ["prefix=--help"], []),
            (["--prefix="], ["prefix"], []), (["a", "-h", "b"], ["help"], ["a", "b"]),
            (["--", "-h", "--"], [], ["-h", "--"]), (["-", ""], [], ["-", ""]),
            (["--long-only"], ["long-only"], []),
        ] as [([String], [String], [String])])
    func optionsAndOperandsAreToldApart(
        arguments: [String], seen: [String], operands: [String]
    ) throws {
        let result = try parse(arguments)
        #expect(result.seen == seen)
        #expect(result.operands == operands)
    }

    @Test(arguments: [
        ["-x"], ["--nothing"], ["--hel"], ["--help=x"], ["-p"], ["--prefix"], ["-tx"], ["--=x"],
        ["--t"],
    ])
    func usageErrorsAreTold(arguments: [String]) {
        #expect(throws: OptionParser.UsageError.self) { _ = try parse(arguments) }
    }

    @Test func anotherProgramsCommandLineIsLeftAlone() throws {
        let parser = OptionParser([.init(short: "h")], stopsAtOperand: true)
        let result = try parse(["-h", "ls", "-l", "--", "-h"], parser)
        #expect(result.seen == ["h"])
        #expect(result.operands == ["ls", "-l", "--", "-h"])
    }
}

@Suite struct LogLines {
    @Test(arguments: [
        ("plain", "plain"), ("", "\"\""), ("a b", "\"a b\""), ("a=b", "\"a=b\""),
        ("a\"b", "\"a\\\"b\""), ("a\\b", "\"a\\\\b\""), ("a\nb\u{1B}[0m", "a_b_[0m"),
        ("ä", "__"),
    ])
    func valuesAreOneWordOfPrintableASCII(text: String, value: String) {
        #expect(LogText.value(text) == value)
    }

    @Test func freeTextIsOneLineOfPrintableASCII() {
        #expect(LogText.line("a b=\"c\"\\\n\r\u{1B}\u{7F}ä") == "a b=\"c\"\\______")
    }

    @Test(arguments: [0, 1, 511, 512, 513, 1024, 1025, 100_000])
    func longTextIsCutAndStaysASCII(count: Int) {
        let text = String(repeating: "x", count: count)
        for cut in [LogText.line(text), LogText.value(text)] {
            #expect(cut.utf8.count <= 1030)
            #expect(cut.utf8.allSatisfy { (0x20...0x7E).contains($0) })
            #expect(cut.hasSuffix("...") || count <= 1024)
        }
    }
}

@Suite struct Timestamps {
    @Test(arguments: [
        (0, 0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399, 999_999_999, "2000-02-28T23:59:59.999999Z"),
        (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
        (951_868_800, 1_000_000, "2000-03-01T00:00:00.001000Z"),
        (1_709_164_800, 50_000_000, "2024-02-29T00:00:00.050000Z"),
        (1_735_689_599, 0, "2024-12-31T23:59:59.000000Z"),
        (2_147_483_648, 0, "2038-01-19T03:14:08.000000Z"),
        (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
    ])
    func timesAreUTCInISO8601(seconds: Int, nanoseconds: Int, text: String) {
        #expect(Timestamp.text(seconds: seconds, nanoseconds: nanoseconds) == text)
    }

    @Test("Lines are ordered by the times that they begin with")
    func timesOfLines() throws {
        let lines = [
            "1999-12-31T23:59:59.999999Z last", "2000-01-01T00:00:00.000000Z first",
            "2026-11-21T10:00:00.000001Z", "2026-11-21T10:00:00.000002Z x",
        ]
        let times = try lines.map { try #require(Timestamp.microseconds(in: Array($0.utf8))) }
        #expect(times[1] == 101_000_000_000_000)
        #expect(Array(times[1...].sorted()) == Array(times[1...]))
        #expect(times[3] - times[2] == 1)
    }

    @Test(
        "A line that does not begin with a time has none",
        arguments: [
            "", "2026-11-21", "2026-11-21 10:00:00.000001Z x",
            "2026-11-21T10:00:00.000Z text and more",
            "2026-11-21T10:00:00.00000aZ", "x2026-11-21T10:00:00.000001Z",
        ])
    func linesWithoutTime(line: String) {
        #expect(Timestamp.microseconds(in: Array(line.utf8)) == nil)
    }
}
