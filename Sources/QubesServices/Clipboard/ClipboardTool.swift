import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `qubes-clipboard` in dom0: the clipboard between qubes. Exit status: 0, 1 for a failure, 2 for a
/// wrong command line, 126 when the policy refuses a paste.
public enum ClipboardTool {
    private static let help = """
        usage: qubes-clipboard copy QUBE     take the text in a qube's clipboard
               qubes-clipboard paste QUBE    put it into another qube's clipboard, and forget it
               qubes-clipboard status        what is there: its source and size, not the text
               qubes-clipboard clear         forget it

        Copies text between the clipboards of qubes, if the policy allows the service
        qubes.ClipboardPaste from the source to the target. A text is pasted once, and forgotten
        after some minutes. dom0 may be a QUBE.

          -h, --help    this text
          --version     the version

        /etc/qubes/clipboard.conf may have "limit = BYTES" (256 to 256000, default 64000; a qube's
        feature gui-max-clipboard-size comes first) and "timeout = SECONDS" (default 300, 0: never).

        Exit status: 0, 1 nothing was done, 2 wrong command line, 126 refused by the policy.

        """

    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes-clipboard")
        var shown: String?
        let words: [String]
        do throws(OptionParser.UsageError) {
            let parser = OptionParser([.init(short: "h", long: "help"), .init(long: "version")])
            words = try parser.parse(Array(arguments.dropFirst())) { name, _ in
                shown = name == "help" ? help : Version.line(program) + "\n"
            }
        } catch {
            complain(program, "\(error.description); see --help")
            return 2
        }
        if let shown {
            say(shown)
            return 0
        }
        CurrentProcess.ignoreBrokenPipes()
        do throws(ClipboardManager.Failure) {
            return try run(words, manager(), program)
        } catch {
            complain(program, error.text)
            return error.status == 126 || error.status == 2 ? error.status : 1
        }
    }

    private static func manager() -> ClipboardManager {
        var manager = ClipboardManager()
        manager.client = try? Programs.client("qrexec-client")
        var settings = Settings(keys: ["limit", "timeout", "manager"])
        settings.load(file: "clipboard.conf", home: "/nonexistent")
        if let text = settings.values["limit"] {
            if let limit = ClipboardText.limit(text) {
                manager.standardLimit = limit
            } else {
                complain("clipboard.conf", "limit: expected 256 to 256000 bytes")
            }
        }
        if let text = settings.values["timeout"] {
            if let seconds = Int(text), (0...86400).contains(seconds) {
                manager.timeout = seconds
            } else {
                complain("clipboard.conf", "timeout: expected 0 to 86400 seconds")
            }
        }
        return manager
    }

    private static func run(
        _ words: [String], _ manager: ClipboardManager, _ program: String
    ) throws(ClipboardManager.Failure) -> Int32 {
        switch (words.first, words.count) {
        case ("copy", 2):
            let request = try manager.copy(from: words[1])
            ClipboardExpiry.start(request, manager, program)
        case ("paste", 2):
            if let (request, why) = try manager.paste(to: words[1]) {
                ClipboardExpiry.start(request, manager, program)
                complain(program, "\(why); the text is still there")
                return 1
            }
        case ("clear", 1): try manager.clear()
        case ("status", 1): try status(manager)
        // Ours: the one in the background that forgets the text of a request.
        case ("expire", 2):
            guard let request = ClipboardStore.Request(words[1]) else { fallthrough }
            return ClipboardExpiry.wait(request, manager, program)
        default:
            throw ClipboardManager.Failure(
                status: 2, text: "expected copy QUBE, paste QUBE, status or clear; see --help")
        }
        return 0
    }

    private static func status(_ manager: ClipboardManager) throws(ClipboardManager.Failure) {
        guard let contents = try manager.present() else { return say("empty\n") }
        var text = "source: \(displayable(contents.source.utf8))\nsize: \(contents.text.count)\n"
        if manager.timeout > 0 {
            let left = max(0, manager.timeout - manager.age(contents.request))
            text += "forgotten in: \(left) s\n"
        }
        say(text)
    }
}

/// Forgets a text when its time is over: a process in the background that ends earlier when the text
/// is gone before. A text that outlives it (it was killed) is too old for every paste all the same.
enum ClipboardExpiry {
    static func start(
        _ request: ClipboardStore.Request, _ manager: ClipboardManager, _ program: String
    ) {
        if manager.timeout == 0 { return }
        do throws(Errno) {
            let null = try Descriptor.open("/dev/null", O_RDWR)
            let own = Programs.own("qubes-clipboard")
            var spawn = SpawnRequest(
                path: own[0], arguments: own + ["expire", "\(request)"],
                environment: CurrentProcess.environment)
            spawn.descriptors = [null.number, null.number, null.number]
            spawn.newSession = true
            spawn.directory = "/"
            _ = try ChildProcess.spawn(spawn)
        } catch {
            complain(program, "the text is not forgotten by itself: \(error.message)")
        }
    }

    static func wait(
        _ request: ClipboardStore.Request, _ manager: ClipboardManager, _ program: String
    ) -> Int32 {
        do throws(Errno) {
            let changes = try Inotify()
            try changes.watchDirectory(manager.store.directory)
            while manager.store.holds(request) {
                let left = manager.timeout * 1000 - Int(ClipboardStore.now &- request)
                if left <= 0 {
                    try manager.store.expire(request)
                    return 0
                }
                _ = try Descriptor.isReadable(
                    changes.descriptor.number, milliseconds: Int32(min(left, 3_600_000)))
                _ = try changes.drain()
            }
            return 0
        } catch {
            complain(program, error.message)
            return 1
        }
    }
}
