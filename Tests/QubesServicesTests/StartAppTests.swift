import Foundation
import Testing

@testable import QubesServices

@Suite struct StartAppTests {
    private func entry(_ lines: String) throws -> DesktopEntry {
        try DesktopEntry("[Desktop Entry]\nType=Application\n\(lines)\n", path: "/x/app.desktop")
    }

    @Test(arguments: [
        ("Exec=app", ["app"]), ("Exec=app %U --new", ["app", "--new"]),
        (#"Exec="/opt/my app/run" "a\\"b" %%"#, ["/opt/my app/run", #"a"b"#, "%"]),
        ("Name=My App\nExec=app --name %c %k", ["app", "--name", "My App", "/x/app.desktop"]),
        ("Icon=pic\nExec=app %i x", ["app", "--icon", "pic", "x"]), ("Exec=app %i", ["app"]),
        (#"Exec=app a\sb"#, ["app", "a", "b"]), ("Exec=app --file=%f", ["app", "--file="]),
        (#"Exec=sh -c "echo \\$HOME""#, ["sh", "-c", "echo $HOME"]),
        ("Exec = app\t x ", ["app", "x"]), ("Exec=app \"%f\"", ["app", "%f"]),
    ])
    func readsTheCommand(lines: String, command: [String]) throws {
        #expect(try entry(lines).command == command)
    }

    @Test func readsTheRest() throws {
        let full = try entry("Exec=app\nPath=/srv\nTerminal=true\n[Desktop Action New]\nExec=other")
        #expect(full.directory == "/srv")
        #expect(full.needsTerminal)
        #expect(full.command == ["app"])
        #expect(try entry("Exec=app\nExec[de]=other").directory == nil)
    }

    @Test(arguments: [
        "", "Exec=", "Exec=\"open", "Exec=app %", "Exec=app %z", "Hidden=true\nExec=app",
        "Exec=%f", "#Exec=app", "[Other]\nExec=app",
    ])
    func refusesWhatStartsNothing(lines: String) {
        #expect(throws: DesktopEntry.Invalid.self) { try entry(lines) }
    }

    @Test func startsApplicationsOnly() {
        #expect(throws: DesktopEntry.Invalid.self) {
            try DesktopEntry("[Desktop Entry]\nType=Link\nExec=x\nURL=y", path: "/x")
        }
    }

    @Test(arguments: [
        ("firefox", "firefox.desktop"), ("org.x.App.desktop", "org.x.App.desktop"),
        ("qubes-run-terminal", "qubes-run-terminal.desktop"),
    ])
    func knowsTheFileOfAnArgument(argument: String, name: String) {
        #expect(StartAppService.fileName(argument) == name)
    }

    @Test(arguments: ["", ".desktop", "..", "../x", "a/b", "/etc/passwd", ".hidden"])
    func leavesNoDirectory(argument: String) {
        #expect(StartAppService.fileName(argument) == nil)
    }

    @Test func findsTheFirstFileAlsoInSubdirectories() throws {
        let first = try TemporaryDirectory()
        let second = try TemporaryDirectory()
        try first.write("applications/kde/b.desktop", "")
        try second.write("applications/a.desktop", "")
        try second.write("applications/b.desktop", "")
        try FileManager.default.createSymbolicLink(
            atPath: first.path + "/applications/loop", withDestinationPath: ".")
        let directories = [first.path, second.path]
        #expect(
            StartAppService.find("b.desktop", in: directories)
                == first.path + "/applications/kde/b.desktop")
        #expect(
            StartAppService.find("a.desktop", in: directories)
                == second.path + "/applications/a.desktop")
        #expect(StartAppService.find("none.desktop", in: directories) == nil)
    }
}
