import Glibc
import LinuxSystem
import SystemPackage

/// The program that opens files and addresses in this qube: `opener = PATH` of the settings, else a
/// `qubes-open` of the qube's own in PATH, else `xdg-open`.
struct Opener {
    let path: String

    /// Finds it; says what is missing when the qube has none.
    init?() {
        var settings = Settings(keys: ["opener"])
        settings.load(file: "open.conf", home: CurrentProcess.variable("HOME") ?? "/")
        if let configured = settings.values["opener"] {
            guard configured.hasPrefix("/"), FileStatus.isExecutable(configured) else {
                complain("opener", "\(configured) of open.conf is not a program")
                return nil
            }
            path = configured
            return
        }
        // Our own qubes-open would only come here again.
        let ours = Programs.find("qubes-open").map(Programs.isOwn) ?? true
        guard let found = ours ? Programs.find("xdg-open") : Programs.find("qubes-open") else {
            complain(
                "opener",
                "xdg-open is not installed; install xdg-utils, or name another program with "
                    + "\"opener = PATH\" in /etc/qubes/open.conf or ~/.config/qubes/open.conf")
            return nil
        }
        path = found
    }

    /// Opens something and waits until the program ends.
    ///
    /// - Returns: its exit status; nil when the caller left first, and the program was told to end.
    func open(_ what: String, unless caller: CallerAway? = nil) throws(Errno) -> Int32? {
        let null = try Descriptor.open("/dev/null", O_RDONLY)
        var request = SpawnRequest(
            path: path, arguments: [path, what], environment: CurrentProcess.environment)
        // Standard output belongs to the caller in the other qube.
        request.descriptors = [null.number, 2, 2]
        let child = try ChildProcess.spawn(request)
        if let caller, try caller.wait(for: child.pidfd.number) {
            child.signal(SIGHUP)
            caller.endPrograms()
            return nil
        }
        return try child.reap()
    }

    /// Shows an error to the person at the screen, if there is one.
    static func showError(_ text: String) {
        complain("qubes.OpenInVM", text)
        guard
            CurrentProcess.variable("DISPLAY") != nil
                || CurrentProcess.variable("WAYLAND_DISPLAY") != nil,
            let dialog = Programs.find("zenity"),
            let null = try? Descriptor.open("/dev/null", O_RDWR)
        else { return }
        var request = SpawnRequest(
            path: dialog, arguments: [dialog, "--error", "--no-markup", "--text=\(text)"],
            environment: CurrentProcess.environment)
        request.descriptors = [null.number, null.number, null.number]
        if let child = try? ChildProcess.spawn(request) { _ = try? child.reap() }
    }
}
