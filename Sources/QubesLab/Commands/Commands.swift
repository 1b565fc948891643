import ArgumentParser
import Glibc
import LinuxSystem
import QrexecRuntime
import SettingsText

/// The command line of `qubes-lab`.
struct LabCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "qubes-lab",
        abstract:
            "Runs dom0 and qubes as sandboxes on this machine, with the real qrexec programs.",
        discussion: """
            A lab is for development and tests: it is no security boundary.

            Exit status: 0 done, 1 failed, 64 wrong usage; 'run' and 'shell' give the program's own \
            status, 128 + signal when it was killed, 127 when it was not found, 126 when it could \
            not be executed, and 125 when the lab could not start it.
            """,
        version: Version.line("qubes-lab"),
        subcommands: [
            Up.self, Down.self, Status.self, Run.self, Shell.self, Start.self, Shutdown.self,
            Kill.self, Restart.self, ShowLog.self, Demo.self,
        ])
}

/// Options of every command.
struct StateOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The lab's state directory.",
            discussion: "Else QUBES_LAB_STATE, else qubes-lab/default in the run-time directory.",
            valueName: "dir"),
        completion: .directory)
    var state: String?

    var directory: StateDirectory { StateDirectory(state ?? StateDirectory.standardPath) }
}

/// Ends a command with a message.
func failing(_ body: () throws(LabError) -> Void) throws {
    do throws(LabError) {
        try body()
    } catch {
        try? Descriptor.writeAll(Array("qubes-lab: \(error)\n".utf8), to: 2)
        throw ExitCode(1)
    }
}

struct Up: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Starts a lab; returns when every qube's agent is connected.",
        discussion: "A lab that runs already is left alone, with status 0.")

    @OptionGroup var options: StateOptions
    @Option(
        help: ArgumentHelp(
            "A lab.toml with qubes that are added to, or change, the standard ones.",
            valueName: "file"),
        completion: .file(extensions: ["toml"]))
    var config: String?
    @Option(
        help: ArgumentHelp(
            "Where our programs are.", discussion: "Else where qubes-lab itself is.",
            valueName: "dir"),
        completion: .directory)
    var programs: String?
    @Flag(name: .shortAndLong, help: "Say nothing but errors.")
    var quiet = false

    func run() throws {
        try failing { () throws(LabError) in
            var settings = LabSettings.standard
            if let config { settings = try Self.settings(config) }
            let state = options.directory
            let control = LabControl(state: state) { if !quiet { print($0) } }
            switch try control.up(settings, programs: try Self.programs(programs)) {
            case .alreadyRunning:
                print("The lab at \(state.path) is already running.")
            case .started:
                if !quiet {
                    print("The lab at \(state.path) runs.")
                    print("It is for development; it is no security boundary.")
                }
            }
        }
    }

    static func settings(_ path: String) throws(LabError) -> LabSettings {
        guard let file = try? Descriptor.open(path, O_RDONLY),
            let bytes = try? file.readAll(limit: SettingsTable.maximumSize)
        else { throw LabError("cannot read \(path)") }
        do throws(SettingsFile.Invalid) {
            return try SettingsFile.parse(String(decoding: bytes, as: UTF8.self), path: path)
        } catch {
            throw LabError(error.description)
        }
    }

    static func programs(_ option: String?) throws(LabError) -> String {
        if let option { return StateDirectory(option).path }
        let name = CommandLine.arguments.first ?? "qubes-lab"
        let path = CurrentProcess.variable("PATH") ?? GeneratedFile.searchPath
        guard let directory = Programs.directory(startedAs: name, searchPath: path) else {
            throw LabError("cannot tell where qubes-lab is; give --programs")
        }
        return directory
    }
}

struct Down: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Ends a lab and removes all its files, also when it has crashed.")

    @OptionGroup var options: StateOptions
    @Flag(name: .shortAndLong, help: "Say nothing but errors.")
    var quiet = false

    func run() throws {
        try failing { () throws(LabError) in
            let state = options.directory
            let control = LabControl(state: state) { if !quiet { print($0) } }
            let done = try control.down()
            if !quiet {
                print(done ? "The lab at \(state.path) is gone." : "No lab runs at \(state.path).")
            }
        }
    }
}

struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows the qubes of a lab; paths and process ids are the host's.")

    @OptionGroup var options: StateOptions
    @Flag(help: "As JSON.")
    var json = false

    func run() throws {
        try failing { () throws(LabError) in
            let client = try ManagerClient(options.directory)
            guard let status = try client.ask(.status).status else { throw LabError("no status") }
            print(json ? StatusView.json(status) : StatusView.table(status))
        }
    }
}

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Runs a program in a qube with your streams, terminal and signals.",
        usage: "qubes-lab run [--state <dir>] <qube> [--user <name>] -- <command> ...")

    @OptionGroup var options: StateOptions
    @Argument(help: "A running qube, or dom0.")
    var qube: String
    @Option(help: ArgumentHelp("Run as this user of the qube.", valueName: "name"))
    var user = "user"
    @Argument(
        parsing: .postTerminator,
        help: ArgumentHelp("The program and its arguments, behind --.", valueName: "command"))
    var command: [String] = []

    func validate() throws {
        if command.isEmpty {
            throw ValidationError("give the command behind --: qubes-lab run \(qube) -- ls -l")
        }
    }

    func run() throws {
        var status: Int32 = 125
        let request = ProgramRequest(arguments: command, user: user)
        try passing { () throws(LabError) in
            status = try QubeRun.run(request, in: qube, of: options.directory)
        }
        throw ExitCode(status)
    }
}

struct Shell: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Starts a login shell in a qube.")

    @OptionGroup var options: StateOptions
    @Argument(help: "A running qube, or dom0.")
    var qube: String
    @Option(help: ArgumentHelp("Run as this user of the qube.", valueName: "name"))
    var user = "user"

    func run() throws {
        var status: Int32 = 125
        let request = ProgramRequest(arguments: [], user: user, isLoginShell: true)
        try passing { () throws(LabError) in
            status = try QubeRun.run(request, in: qube, of: options.directory)
        }
        throw ExitCode(status)
    }
}

/// Like `failing`, with the status that says that the program was not started.
private func passing(_ body: () throws(LabError) -> Void) throws {
    do throws(LabError) {
        try body()
    } catch {
        try? Descriptor.writeAll(Array("qubes-lab: \(error)\n".utf8), to: 2)
        throw ExitCode(125)
    }
}

struct Start: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Starts a halted qube; returns when its agent is connected.")

    @OptionGroup var options: StateOptions
    @Argument var qube: String

    func run() throws { try asking(.start(qube), options) }
}

struct Shutdown: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Asks the programs of a qube to end, and halts it.")

    @OptionGroup var options: StateOptions
    @Argument var qube: String

    func run() throws { try asking(.shutdown(qube), options) }
}

struct Kill: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Halts a qube at once.")

    @OptionGroup var options: StateOptions
    @Argument var qube: String

    func run() throws { try asking(.kill(qube), options) }
}

struct Restart: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Halts a qube and starts it again; returns when its agent is connected.")

    @OptionGroup var options: StateOptions
    @Argument var qube: String

    func run() throws { try asking(.restart(qube), options) }
}

private func asking(_ request: ControlRequest, _ options: StateOptions) throws {
    try failing { () throws(LabError) in
        _ = try ManagerClient(options.directory).ask(request)
    }
}

struct ShowLog: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "log", abstract: "Shows what the programs of a qube, or of all, have printed.")

    @OptionGroup var options: StateOptions
    @Argument var qube: String?
    @Flag(name: .shortAndLong, help: "Go on with what comes, until the lab ends.")
    var follow = false
    @Option(help: "Only what all programs tell about the call with this id.")
    var call: String?

    func run() throws {
        try failing { () throws(LabError) in
            let state = options.directory
            guard try state.check(), PathStatus.exists(state.qubeLog) else {
                throw LabError("no lab runs at \(state.path)")
            }
            // The manager writes what there is before it answers; the log of a dead one is as it is.
            if let client = try? ManagerClient(state), (try? client.send(.status)) != nil {
                _ = try? client.receive(milliseconds: 2000)
            }
            let log = LabLog(path: state.qubeLog)
            var isEmpty = true
            let show = { (line: Substring) in
                isEmpty = false
                // Nobody reads any more: that is the end, not an error.
                let bytes = Array("\(line)\n".utf8)
                if (try? Descriptor.writeAll(bytes, to: 1)) == nil { CurrentProcess.exit(0) }
            }
            if let call {
                guard log.show(call: call, show) else {
                    throw LabError("no call has the id \(call)")
                }
                return
            }
            if follow {
                try? log.follow(qube, show)
            } else {
                log.show(qube, show)
            }
            if isEmpty, let qube, !PathStatus.exists(state.qube(qube)) {
                throw LabError("there is and was no qube '\(qube)'; see: qubes-lab status")
            }
        }
    }
}
