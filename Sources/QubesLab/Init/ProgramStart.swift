import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Turns a program's request into a spawn inside this domain.
struct ProgramStart {
    /// Why it cannot be started, and the exit status that a shell would give.
    struct Failure: Error {
        let status: Int32
        let reason: String
    }

    let request: ProgramRequest
    let account: UserAccount?

    init(_ request: ProgramRequest) throws(Failure) {
        self.request = request
        guard let name = request.user else {
            account = nil
            return
        }
        guard let account = UserAccount.named(name) else {
            let hint =
                CurrentProcess.effectiveUser == 0
                ? "" : "; a lab that an ordinary user started has the account 'user' only"
            throw Failure(
                status: 125, reason: "no user '\(LogText.line(name))' in this qube\(hint)")
        }
        guard
            CurrentProcess.effectiveUser == 0
                || account.identity.uid == CurrentProcess.effectiveUser
        else {
            throw Failure(
                status: 125,
                reason: "a lab that an ordinary user started runs programs as 'user' only")
        }
        self.account = account
    }

    private var environment: [String] {
        var values = request.environment
        values["PATH"] = GeneratedFile.searchPath
        values["LANG"] = values["LANG"] ?? "C.UTF-8"
        // The kernel may tell of a real Xen below the lab.
        values["QREXEC_VCHAN"] = "local"
        if let account {
            values["HOME"] = account.home
            values["USER"] = account.name
            values["LOGNAME"] = account.name
            values["SHELL"] = account.shell
        } else {
            values["HOME"] = "/"
        }
        return values.map { "\($0.key)=\($0.value)" }.sorted()
    }

    private func path(of program: String) throws(Failure) -> String {
        if program.contains("/") { return program }
        if program.isEmpty { throw Failure(status: 127, reason: "the command is empty") }
        for directory in GeneratedFile.searchPath.split(separator: ":") {
            let path = "\(directory)/\(program)"
            if (try? FileStatus.kind(of: path)) == .regular, FileStatus.isExecutable(path) {
                return path
            }
        }
        throw Failure(status: 127, reason: "\(program): command not found in this qube")
    }

    /// Starts the program.
    ///
    /// - Parameters:
    ///   - descriptors: its 0, 1 and 2.
    ///   - terminal: whether descriptor 0 becomes its controlling terminal.
    func spawn(descriptors: [Int32?], terminal: Bool) throws(Failure) -> ChildProcess {
        var arguments = request.arguments
        let program: String
        if request.isLoginShell {
            program = account?.shell ?? "/bin/sh"
            let name = program.split(separator: "/").last.map(String.init) ?? "sh"
            arguments = ["-\(name)"] + arguments
        } else {
            program = try path(of: arguments.first ?? "")
        }
        var spawn = SpawnRequest(path: program, arguments: arguments, environment: environment)
        spawn.descriptors = descriptors
        spawn.newSession = true
        if terminal { spawn.controllingTerminal = 0 }
        spawn.directory = account?.home ?? "/"
        spawn.directoryIsOptional = true
        if CurrentProcess.effectiveUser == 0 { spawn.user = account?.identity }
        do throws(Errno) {
            return try ChildProcess.spawn(spawn)
        } catch .noSuchFileOrDirectory {
            throw Failure(status: 127, reason: "\(program): no such file in this qube")
        } catch {
            throw Failure(status: 126, reason: "\(program): \(error)")
        }
    }
}
