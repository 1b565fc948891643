import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// `qfile-unpacker`, the receiver of file copies, and by their names the service `qubes.Filecopy` and
/// `qfile-dom0-unpacker`. Exit status: 0, the low 8 bits of the answer's code, or 1.
public enum FileUnpackerTool {
    private static let dom0Name = "qfile-dom0-unpacker"

    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qfile-unpacker")
        let isService = program.hasPrefix("qubes.")
        let rest = Array(arguments.dropFirst())
        if !isService, let status = answerHelp(program, rest) { return status }
        do throws(UnpackerOptions.Problem) {
            if isService { return try receive(program, UnpackerOptions.service(rest)) }
            if program.hasPrefix(dom0Name) {
                return try receive(program, UnpackerOptions(dom0: rest))
            }
            return try receive(program, UnpackerOptions(parsing: rest))
        } catch {
            complain(program, error.text)
            return 1
        }
    }

    private static func answerHelp(_ program: String, _ arguments: [String]) -> Int32? {
        guard let first = arguments.first else { return nil }
        switch first {
        case "--help", "-h": say(program.hasPrefix(dom0Name) ? dom0Help : help)
        case "--version": say(Version.line(program) + "\n")
        default: return nil
        }
        return 0
    }

    private static func receive(
        _ program: String, _ options: UnpackerOptions
    ) throws(UnpackerOptions.Problem) -> Int32 {
        CurrentProcess.ignoreBrokenPipes()
        let user = try identity(options)
        let result: TransferResult
        do throws(IncomingDirectory.Failure) {
            let place = try IncomingDirectory.open(options.directory, for: user)
            let settings = Confinement.acting(as: user.user, group: user.group) {
                FileCopySettings.load(home: user.home)
            }
            let quota = options.isLimited ? Quota(of: place) : Quota()
            // The next step may leave the machine's file system, and /proc with it.
            let descriptors = TreeWriter.openDescriptors()
            let root = try IncomingDirectory.confine(to: place, as: user)
            var receiver = TreeReceiver(
                into: root, options: receiverOptions(program, options, settings, quota),
                descriptors: descriptors)
            result = receiver.receive(from: 0)
        } catch {
            complain(program, error.text)
            result = TransferResult(code: UInt32(error.errno.rawValue), checksum: 0, lastName: nil)
        }
        if result.code != 0 {
            let source = CurrentProcess.variable("QREXEC_REMOTE_DOMAIN") ?? "?"
            complain(program, "copy from \(source) failed: \(receiverText(result))")
        }
        do throws(Errno) {
            try Descriptor.writeAll(1, result.encoded.span)
        } catch {
            complain(program, "the answer did not reach the sender: \(error.message)")
            return max(result.exitStatus, 1)
        }
        return result.exitStatus
    }

    /// What the log of this side says.
    private static func receiverText(_ result: TransferResult) -> String {
        let name = result.lastName.map { "\"\(displayable($0))\": " } ?? ""
        if result.code == TransferResult.brokenOff { return name + "the sender broke off here" }
        if result.code == UInt32(EREMOTEIO) { return name + "the stream has no end marker" }
        return name + Errno(rawValue: Int32(result.code)).message
    }

    private static func receiverOptions(
        _ program: String, _ options: UnpackerOptions, _ settings: FileCopySettings,
        _ quota: Quota
    ) -> TreeReceiver.Options {
        var result = TreeReceiver.Options()
        result.rules = NameRules(
            allowAllNames: options.allowAllNames, allowUnsafeLinks: options.allowUnsafeLinks)
        result.existing = options.existing ?? settings.existing
        result.reservedSpace = options.waitForSpace
        result.maximumBytes = quota.bytes
        result.maximumFiles = quota.files
        result.onlyRegularFiles = options.onlyRegularFiles
        if options.verbose { result.report = { complain(program, displayable($0)) } }
        return result
    }

    /// What dom0 takes of one qube; 0 has no limit.
    private struct Quota {
        var bytes: UInt64 = 0
        var files: UInt64 = 0

        init() {}

        /// min(4 GiB, 90 % of the free space) and 4096 files, or what the environment says.
        init(of place: borrowing Descriptor) {
            let free = (try? place.freeSpace()) ?? 0
            bytes = Self.variable("UPDATES_MAX_BYTES") ?? max(min(4 << 30, free / 10 * 9), 1)
            files = Self.variable("UPDATES_MAX_FILES") ?? 4096
        }

        private static func variable(_ name: String) -> UInt64? {
            guard let text = CurrentProcess.variable(name) else { return nil }
            if let value = UInt64(text) { return value }
            complain(name, "\"\(text)\" is not a number; the standard limit holds")
            return nil
        }
    }

    /// The user whose files these become.
    private static func identity(
        _ options: UnpackerOptions
    ) throws(UnpackerOptions.Problem) -> IncomingDirectory.Owner {
        let caller = Confinement.realUser
        var uid = options.user ?? caller
        if let name = options.userName {
            guard let account = UserAccount.named(name) else {
                throw UnpackerOptions.Problem(text: "there is no user \(name) in /etc/passwd")
            }
            uid = account.identity.uid
        }
        if uid != caller && caller != 0 {
            throw UnpackerOptions.Problem(text: "only root may receive for another user")
        }
        if uid == caller, let home = CurrentProcess.variable("HOME"), home.hasPrefix("/") {
            return IncomingDirectory.Owner(
                user: uid, group: Confinement.realGroup, home: home)
        }
        guard let account = UserAccount.numbered(uid) else {
            throw UnpackerOptions.Problem(text: "there is no user \(uid) in /etc/passwd")
        }
        return IncomingDirectory.Owner(user: uid, group: account.identity.gid, home: account.home)
    }

    private static let help = """
        Usage: qfile-unpacker [OPTION]... [UID [DIR]]
        Receives the files of qvm-copy and qvm-move from standard input and answers on standard
        output. They go to DIR, or to ~/QubesIncoming/NAME, where NAME is the qube in
        QREXEC_REMOTE_DOMAIN. Nothing is ever overwritten.

          -v, --verbose                  name each file on standard error
          -w, --wait-for-space N         wait before each file until N bytes more than it needs
                                         are free
              --[no-]allow-all-names     accept any character in names
              --[no-]allow-unsafe-symlinks
                                         accept links that point anywhere
              --existing=refuse|rename   what to do with a name that is taken: end with an error
                                         (default), or call the new file "name (1)"
          -h, --help                     show this text
              --version                  show the version

        The old form UID DIR [-v] [-w [N]] works too. As service qubes.Filecopy the only argument
        is allow-all-names; "existing = rename" in /etc/qubes/filecopy.conf or in
        ~/.config/qubes/filecopy.conf sets what happens to names that are taken.
        Exit status: 0, the low 8 bits of the error number that was answered, or 1.

        """

    private static let dom0Help = """
        Usage: qfile-dom0-unpacker USER DIR [-v] [-w [N]] [--only-regular-files]
        Receives files of a qube in dom0, as USER, into DIR: from standard input, with the answer on
        standard output. At most 4 GiB, 90 % of the free space and 4096 files are taken;
        UPDATES_MAX_BYTES and UPDATES_MAX_FILES in the environment set other limits, 0 for none.

          -v                      name each file on standard error
          -w [N]                  wait before each file until N bytes more than it needs are free
          --only-regular-files    refuse directories and links
          -h, --help              show this text
              --version           show the version

        Exit status: 0, the low 8 bits of the error number that was answered, or 1.

        """
}
