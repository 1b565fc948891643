import QrexecRuntime
import Testing

@testable import QubesServices

@Suite struct RunInVMCommandTests {
    private func parsed(_ line: String) throws -> RunInVMTool.Command {
        try RunInVMTool.parse(line.split(separator: " ").map(String.init))
    }

    @Test func joinsTheWordsOfTheCommand() throws {
        let command = try parsed("vault ls -l /")
        #expect(command.target == "vault")
        #expect(command.line == "ls -l /")
        #expect(command.waitsForSession)
        #expect(try !parsed("-t vault ls").waitsForSession)
        #expect(try !parsed("--no-gui vault ls").waitsForSession)
    }

    @Test(arguments: ["-d ls -l", "--dispvm ls -l", "@dispvm ls -l"])
    func runsInADisposable(line: String) throws {
        let command = try parsed(line)
        #expect(command.target == "@dispvm")
        #expect(command.line == "ls -l")
    }

    @Test(arguments: ["", "vault", "--dispvm", "--none vault ls", "-t"])
    func refusesWrongCommandLines(line: String) {
        #expect(throws: OptionParser.UsageError.self) { try parsed(line) }
    }
}

@Suite struct QubeRunCommandTests {
    private let terminal = QubeRunCommand.Surroundings(
        outputIsTerminal: true, errorIsTerminal: true, hasDisplay: true)

    private func parsed(
        _ line: String, in surroundings: QubeRunCommand.Surroundings = .init()
    ) throws -> QubeRunCommand {
        try QubeRunCommand(line.split(separator: " ").map(String.init), in: surroundings)
    }

    @Test func readsAQubeAndACommand() throws {
        let command = try parsed("-p work ls -l")
        #expect(command.place == .qube("work"))
        #expect(command.words == ["ls", "-l"])
        #expect(command.passesIO && command.startsQubes && !command.filters)
        #expect(!command.hasWindows && !command.isOutsideSession)
    }

    @Test(arguments: ["work -p -- ls -l", "-p -- work ls -l", "work --pass-io ls -l"])
    func takesOptionsAroundTheQube(line: String) throws {
        let command = try parsed(line)
        #expect(command.place == .qube("work"))
        #expect(command.words == ["ls", "-l"])
        #expect(command.passesIO)
    }

    @Test func chooseDisposablesAndAllQubes() throws {
        #expect(try parsed("--dispvm ls").place == .disposable(template: nil))
        #expect(try parsed("--dispvm=base ls").place == .disposable(template: "base"))
        #expect(try parsed("@dispvm ls").place == .disposable(template: nil))
        #expect(try parsed("@dispvm:base ls").place == .disposable(template: "base"))
        #expect(
            try parsed("--all --exclude a --exclude=b ls").place == .all(excluding: ["a", "b"]))
    }

    @Test func readsEveryOption() throws {
        let command = try parsed(
            "-u root -n -p --localcmd cat --gui --filter-escape-chars --service -v w my.Service+x")
        #expect(command.user == "root")
        #expect(!command.startsQubes && command.hasWindows && command.filters)
        #expect(command.localCommand == "cat")
        #expect(command.isService)
        #expect(command.verbosity == 2)
        #expect(try parsed("--no-gui w x", in: terminal).isOutsideSession)
        #expect(try !parsed("--nogui w x", in: terminal).hasWindows)
        #expect(try parsed("-n -a w x").startsQubes)
        #expect(try parsed("-q --no-shell w x").isWithoutShell)
    }

    @Test func coloursWhatATerminalShows() throws {
        #expect(try parsed("-p w x", in: terminal).outputColour == "31")
        #expect(try parsed("-p w x", in: terminal).errorColour == "31")
        #expect(try parsed("-p w x", in: terminal).filters)
        #expect(try parsed("-p w x").outputColour == nil)
        #expect(try parsed("w x", in: terminal).outputColour == nil)
        let none = try parsed("-p --no-colour-output --no-color-stderr w x", in: terminal)
        #expect(none.outputColour == nil && none.errorColour == nil)
        let some = try parsed("-p --filter-escape-chars --color-output 32 --colour-stderr=1;33 w x")
        #expect(some.outputColour == "32" && some.errorColour == "1;33")
        #expect(try parsed("-p --no-filter-escape-chars w x", in: terminal).outputColour == nil)
    }

    @Test(arguments: [
        "", "work", "--all", "dom0 ls", "../x ls", "wo/rk ls", "--localcmd cat work ls",
        "--all -p ls", "--exclude a work ls", "--all --dispvm ls", "--service work a b",
        "--service --no-shell work a", "--service work a/b", "-u a:b work ls", "-u work",
        "-p --colour-output 31 work ls", "-p --filter-escape-chars --colour-output x work ls",
        "--none work ls", "--dispvm=../x ls",
    ])
    func refusesWrongCommandLines(line: String) {
        #expect(throws: OptionParser.UsageError.self) { try parsed(line) }
    }
}
