import Testing

@testable import QubesServices

@Suite struct OptionTests {
    private func parsed(_ line: String) throws -> UnpackerOptions {
        try UnpackerOptions(parsing: line.split(separator: " ").map(String.init))
    }

    @Test func readsEveryOptionOfTheUnpacker() throws {
        var expected = UnpackerOptions()
        #expect(try parsed("") == expected)
        expected.verbose = true
        expected.waitForSpace = 10
        expected.allowAllNames = true
        expected.allowUnsafeLinks = true
        expected.existing = .rename
        expected.user = 1000
        expected.directory = "/d"
        let options = "--allow-all-names --allow-unsafe-symlinks --existing=rename"
        #expect(try parsed("-v -w 10 \(options) 1000 /d") == expected)
        #expect(try parsed("--verbose --wait-for-space 10 \(options) -- 1000 /d") == expected)
        #expect(try parsed("--verbose --wait-for-space=10 \(options) 1000 /d") == expected)
        #expect(try parsed("-v -w10 \(options) 1000 /d") == expected)
        #expect(try parsed("-vw 10 \(options) 1000 /d") == expected)
        #expect(try parsed("-vw10 \(options) 1000 /d") == expected)
        #expect(
            try parsed("--allow-all-names --no-allow-all-names --no-allow-unsafe-symlinks")
                == UnpackerOptions())
    }

    @Test func readsTheOldForm() throws {
        var expected = UnpackerOptions()
        expected.user = 0
        expected.directory = "/d"
        #expect(try parsed("0 /d") == expected)
        expected.verbose = true
        expected.waitForSpace = 5
        #expect(try parsed("0 /d -v -w 5") == expected)
        expected.waitForSpace = 0
        #expect(try parsed("0 /d -v -w") == expected)
    }

    @Test(arguments: [
        "--unknown", "--verb", "-w", "-w x", "-w -1", "-vx", "-wv", "user /d", "0 /d extra",
        "--allow-all-names 1 2 3",
    ])
    func refuses(line: String) {
        #expect(throws: UnpackerOptions.Problem.self) { try parsed(line) }
    }

    @Test(arguments: [([], false), ([""], false), (["allow-all-names"], true)])
    func takesTheArgumentOfTheService(arguments: [String], all: Bool) throws {
        #expect(try UnpackerOptions.service(arguments).allowAllNames == all)
    }

    @Test(arguments: [["x"], ["--allow-unsafe-symlinks"], ["allow-all-names", "x"], ["", "x"]])
    func refusesOtherArgumentsOfTheService(arguments: [String]) {
        #expect(throws: UnpackerOptions.Problem.self) { try UnpackerOptions.service(arguments) }
    }

    @Test func readsTheSettingsOfTheQube() {
        var settings = Settings(keys: ["existing"])
        #expect(settings.apply("# comment\n\n existing = rename # why\n") == [])
        #expect(FileCopySettings(settings).existing == .rename)
        #expect(settings.apply("existing = \"refuse\"") == [])
        #expect(FileCopySettings(settings).existing == .refuse)
        #expect(settings.apply("\nexisting = overwrite\nfoo\nbar = 1").count == 2)
        #expect(FileCopySettings(settings).existing == .refuse)
    }

    @Test func readsTheCommandLineOfACopy() throws {
        let command = try #require(
            try CopyCommand(
                program: "qvm-move-to-vm",
                ["--ignore-symlinks", "--without-progress", "--", "vault", "-f", "g"]))
        #expect(command.isMove)
        #expect(command.target == "vault")
        #expect(command.files == ["-f", "g"])
        #expect(command.ignoreLinks)
        #expect(command.progress == false)
    }

    @Test(
        arguments: [
            (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"),
            (.max, "15.9 EiB"),
        ] as [(UInt64, String)])
    func writesSizesForPeople(bytes: UInt64, text: String) {
        #expect(CopyProgress.size(bytes) == text)
    }

    @Test func tellsRateAndTimeLeft() {
        var progress = CopyProgress(style: .none, total: 300 << 20, now: 0)
        progress.add(100 << 20)
        #expect(
            progress.text(nanoseconds: 2_000_000_000, isLast: false)
                == "sent 100.0 MiB of 300.0 MiB (33 %), 50.0 MiB/s, 0:05 left")
        #expect(
            progress.text(nanoseconds: 2_000_000_000, isLast: true)
                == "sent 100.0 MiB, 50.0 MiB/s, 0:02")
        #expect(CopyProgress.duration(3_725) == "1:02:05")
    }
}
