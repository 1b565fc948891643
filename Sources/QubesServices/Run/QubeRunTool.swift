import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `qvm-run` in dom0: runs a command or a service in qubes. Exit status: the command's (of several,
/// the highest); 1 when a qube is skipped or cannot be reached, 2 for a wrong command line.
public enum QubeRunTool {
    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qvm-run")
        let surroundings = QubeRunCommand.Surroundings(
            outputIsTerminal: TerminalDevice.isTerminal(1),
            errorIsTerminal: TerminalDevice.isTerminal(2),
            hasDisplay: CurrentProcess.variable("DISPLAY") != nil
                || CurrentProcess.variable("WAYLAND_DISPLAY") != nil)
        let command: QubeRunCommand
        do throws(OptionParser.UsageError) {
            command = try QubeRunCommand(Array(arguments.dropFirst()), in: surroundings)
        } catch {
            complain(program, "\(error.description); see --help")
            return 2
        }
        if let shown = command.shown {
            say(shown == "help" ? help : Version.line(program) + "\n")
            return 0
        }
        do throws(FileProblem) {
            let client = try Programs.client("qrexec-client")
            return try QubeRun(command: command, client: client, program: program).run()
        } catch {
            complain(program, error.line)
            return 1
        }
    }

    private static let help = """
        usage: qvm-run [OPTION]... QUBE COMMAND [ARGUMENT]...
               qvm-run [OPTION]... --dispvm[=TEMPLATE] COMMAND [ARGUMENT]...
               qvm-run [OPTION]... --all [--exclude QUBE]... COMMAND [ARGUMENT]...

        Runs a command in a qube. A COMMAND alone is run by the shell there; with ARGUMENTs the
        words go to the program as they are.

          -p, --pass-io          connect standard input, output and error; else there are none
          --localcmd=COMMAND     with --pass-io: connect this command of dom0 instead
          -u, --user=USER        run as USER
          -a, --auto, --autostart    start the qube when it does not run (as without)
          -n, --no-auto, --no-autostart  skip a qube that does not run, with status 1
          --gui, --no-gui        wait for the qube's graphical session, or not (--gui where dom0 has
                                 a display)
          --service              COMMAND is a service, SERVICE[+ARGUMENT]
          --no-shell             use no shell in the qube, even without ARGUMENTs
          --dispvm[=TEMPLATE]    in a new disposable, which is killed at the end
          --all                  in all running qubes, but those of --exclude
          --exclude=QUBE
          --filter-escape-chars, --no-filter-escape-chars
                                 replace what a terminal cannot be trusted with (on a terminal)
          --colour-output=N, --no-colour-output
                                 colour of the qube's output (31, red, on a terminal)
          --colour-stderr=N, --no-colour-stderr
          -v, -q                 say more, say less
          -h, --help             this text
          --version              the version

        Example: qvm-run -p work 'tar c Documents' > documents.tar

        Exit status: that of the command (of several, the highest); 125 it could not be started, 127
        no such program, 255 the connection was lost; 1 a qube was skipped or could not be reached,
        2 wrong command line.

        """
}

/// One run of `qvm-run`.
struct QubeRun {
    let command: QubeRunCommand
    /// Path of `qrexec-client`.
    let client: String
    let program: String
    private let qubesd = QubesdClient()

    init(command: QubeRunCommand, client: String, program: String) {
        self.command = command
        self.client = client
        self.program = program
    }

    func run() throws(FileProblem) -> Int32 {
        switch command.place {
        case .qube(let name): return try run(in: name)
        case .disposable(let template): return try runInDisposable(of: template)
        case .all(let excluded): return try runInAll(but: excluded)
        }
    }

    // MARK: Where

    private func run(in qube: String) throws(FileProblem) -> Int32 {
        if !command.startsQubes, try !isRunning(qube) {
            note("\(qube) does not run and is skipped")
            return 1
        }
        let arguments = try clientArguments(for: qube)
        announce(qube)
        let isColoured = command.outputColour != nil || command.errorColour != nil
        if !isColoured, command.passesIO {
            // Nothing is left to do here but to be the client.
            return Execution.become(arguments.map { Array($0.utf8) }, reporter: program)
        }
        return try wait(for: [arguments])
    }

    private func runInDisposable(of template: String?) throws(FileProblem) -> Int32 {
        // From here on no signal may end this process before the disposable is gone.
        let signals = try signalDescriptor()
        let qube = try ask("admin.vm.CreateDisposable", on: template ?? "dom0")
        defer {
            do throws(QubesdClient.Failure) {
                _ = try qubesd.call("admin.vm.Kill", on: qube)
            } catch {
                // One that never started, or ended by itself, is gone already.
                if command.verbosity > 2 { note("\(qube): \(error.text)") }
            }
        }
        let arguments = try clientArguments(for: qube)
        announce(qube)
        return try wait(for: [arguments], signals)
    }

    private func runInAll(but excluded: [String]) throws(FileProblem) -> Int32 {
        let list = try ask("admin.vm.List", on: "dom0")
        var calls: [[String]] = []
        for line in list.split(separator: "\n") {
            let words = line.split(separator: " ").map(String.init)
            guard let name = words.first, !excluded.contains(name),
                words.contains("state=Running"), !words.contains("class=AdminVM")
            else { continue }
            calls.append(try clientArguments(for: name))
            announce(name)
        }
        return try wait(for: calls)
    }

    private func isRunning(_ qube: String) throws(FileProblem) -> Bool {
        try ask("admin.vm.CurrentState", on: qube).split(separator: " ")
            .contains("power_state=Running")
    }

    private func ask(_ method: String, on qube: String) throws(FileProblem) -> String {
        do throws(QubesdClient.Failure) {
            return try qubesd.call(method, on: qube)
        } catch {
            throw FileProblem(Array(qube.utf8), error.text)
        }
    }

    // MARK: What

    /// The client's command line for one qube.
    private func clientArguments(for qube: String) throws(FileProblem) -> [String] {
        var arguments = [client, "-d", qube]
        if command.filters { arguments += ["-t", "-T"] }
        if let local = command.localCommand { arguments += ["-l", local] }
        let (service, prefix) = serviceCall(in: qube)
        if !prefix.isEmpty { arguments.append("--prefix-data=\(prefix)") }
        // Where windows are of no use, the session's surroundings are not either.
        let nogui = command.isOutsideSession ? "nogui:" : ""
        return arguments + ["--", "\(command.user):\(nogui)QUBESRPC \(service) dom0"]
    }

    private func serviceCall(in qube: String) -> (service: String, prefix: String) {
        if command.isService { return (command.words[0], "") }
        if command.isWithoutShell || command.words.count > 1 {
            // Agents from before R4.1 have no VMExec; those who cannot tell are of today.
            let (value, isKnown) = qubesd.feature("vmexec", of: qube)
            if command.isWithoutShell || !isKnown || !(value ?? "").isEmpty {
                let encoded = ArgumentCoding.encode(rawWords)
                return ("qubes.VMExec\(command.hasWindows ? "GUI" : "")+\(encoded)", "")
            }
        }
        let line = command.words.count > 1 ? ShellInput.quoted(command.words) : command.words[0]
        let isWindows = qubesd.feature("os", of: qube).value == "Windows"
        return (
            "qubes.VMShell\(command.hasWindows ? "+WaitForSession" : "")",
            ShellInput.text(line, isWindows: isWindows)
        )
    }

    /// The command's words byte by byte: names of files need not be UTF-8.
    private var rawWords: [[UInt8]] {
        let all = CurrentProcess.argumentBytes.suffix(command.words.count)
        let words = all.map { String(decoding: $0, as: UTF8.self) }
        return words == command.words ? Array(all) : command.words.map { Array($0.utf8) }
    }

    // MARK: Running

    private func announce(_ qube: String) {
        guard command.verbosity - (command.passesIO ? 1 : 0) > 0 else { return }
        note("running '\(command.words.joined(separator: " "))' in \(qube)")
    }

    private func note(_ text: String) {
        if command.verbosity > 0 { complain(program, text) }
    }

    private func signalDescriptor() throws(FileProblem) -> Descriptor {
        do throws(Errno) {
            return try CurrentProcess.signalDescriptor([SIGINT, SIGTERM, SIGHUP])
        } catch {
            throw FileProblem(Array(program.utf8), error)
        }
    }

    private func wait(for calls: [[String]]) throws(FileProblem) -> Int32 {
        try wait(for: calls, try signalDescriptor())
    }

    /// Makes the calls at the same time and waits for the end of all.
    private func wait(
        for calls: [[String]], _ signals: borrowing Descriptor
    ) throws(FileProblem) -> Int32 {
        colour(1, command.outputColour)
        colour(2, command.errorColour)
        defer {
            colour(1, command.outputColour.map { _ in "" })
            colour(2, command.errorColour.map { _ in "" })
        }
        do throws(Errno) {
            let null = try Descriptor.open("/dev/null", O_RDWR)
            var children: [RunningCall] = []
            for call in calls {
                var request = SpawnRequest(
                    path: call[0], arguments: call, environment: CurrentProcess.environment)
                if !command.passesIO {
                    request.descriptors = [null.number, null.number, null.number]
                }
                request.diesWithParent = true
                children.append(RunningCall(try ChildProcess.spawn(request)))
            }
            return try wait(for: children, signals)
        } catch {
            throw FileProblem(Array(client.utf8), "cannot be started: \(error.message)")
        }
    }

    private func wait(
        for children: [RunningCall], _ signals: borrowing Descriptor
    ) throws(Errno) -> Int32 {
        var highest: Int32 = 0
        var received: Int32?
        for child in children {
            while try !Descriptor.waitForEither(child.number, signals.number).first {
                guard let signal = try CurrentProcess.nextSignal(of: signals) else { continue }
                received = signal
                for other in children { other.signal(signal) }
            }
            highest = max(highest, try child.reap())
        }
        if let received, highest != 0 { return 128 + received }
        return highest
    }

    /// Begins a colour, or with the empty text ends it.
    private func colour(_ number: Int32, _ colour: String?) {
        guard let colour else { return }
        let code = colour.isEmpty ? "0" : "0;\(colour)"
        try? Descriptor.writeAll(Array("\u{1B}[\(code)m".utf8), to: number)
    }
}

/// A client that runs.
private final class RunningCall {
    private var process: ChildProcess?
    let number: Int32

    init(_ process: consuming ChildProcess) {
        number = process.pidfd.number
        self.process = consume process
    }

    func signal(_ signal: Int32) { process?.signal(signal) }

    func reap() throws(Errno) -> Int32 {
        guard let ended = process.take() else { return 0 }
        return try ended.reap()
    }
}
