import Foundation
import LinuxSystem
import Testing

@testable import QubesServices

extension TemporaryDirectory {
    /// Writes an executable script.
    func writeProgram(_ name: String, _ script: String) throws {
        try write(name + ".text", "#!/bin/bash\n" + script)
        try installProgram(path + "/" + name + ".text", as: name)
        try FileManager.default.removeItem(atPath: path + "/" + name + ".text")
    }

    /// Copies a program. A process of its own does: a program that another thread of ours starts in
    /// that moment would inherit the open file, which then cannot be executed.
    func installProgram(_ program: String, as name: String) throws {
        let copy = try Process.run(
            URL(fileURLWithPath: "/usr/bin/install"),
            arguments: ["-m", "755", program, path + "/" + name])
        copy.waitUntilExit()
        #expect(copy.terminationStatus == 0)
    }
}

/// Services as the agent starts them: by their name, with an argument, input and environment.
@Suite struct ServiceProcessTests {
    private let scene: Scene
    init() throws { scene = try Scene() }

    private struct Ended {
        var status: Int32
        var bytes: [UInt8]
        var error: String

        var output: String { String(decoding: bytes, as: UTF8.self) }
    }

    private func serve(
        _ service: String, _ argument: String? = nil, input: String = "",
        environment: [String: String] = [:]
    ) throws -> Ended {
        try serve(service, argument, bytes: Array(input.utf8), environment: environment)
    }

    private func serve(
        _ service: String, _ argument: String? = nil, bytes: [UInt8],
        environment: [String: String] = [:]
    ) throws -> Ended {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: scene.here.path + "/bin/" + service)
        process.arguments = argument.map { [$0] } ?? []
        process.environment = [
            "PATH": scene.there.path + ":/usr/bin:/bin", "HOME": scene.there.path,
            "QREXEC_REMOTE_DOMAIN": "work",
        ].merging(environment) { _, new in new }
        let (stdin, stdout, stderr) = (Pipe(), Pipe(), Pipe())
        process.standardInput = stdin
        process.standardOutput = stdout
        process.standardError = stderr
        try process.run()
        CurrentProcess.ignoreBrokenPipes()
        try? stdin.fileHandleForWriting.write(contentsOf: Data(bytes))
        try stdin.fileHandleForWriting.close()
        let output = stdout.fileHandleForReading.readDataToEndOfFile()
        let error = stderr.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return Ended(
            status: process.terminationStatus, bytes: Array(output),
            error: String(decoding: error, as: UTF8.self))
    }

    /// Puts an executable into PATH.
    private func program(_ name: String, _ script: String) throws {
        try scene.there.writeProgram(name, script)
    }

    @Test(arguments: ["qubes.VMExec", "qubes.VMExecGUI", "qubes.VMRootExec", "qubes-vmexec"])
    func runsTheProgramOfTheArgument(service: String) throws {
        let ended = try serve(service, "printf+-5B-25s-5D+a-20b++-2A", input: "unread")
        #expect(ended.output == "[a b][][*]")
        #expect(ended.status == 0)
        #expect(try serve(service, "sh+--c+exit-207").status == 7)
        #expect(try serve(service, "cat", input: "in").output == "in")
    }

    @Test(arguments: [
        (nil, 1, "expected one argument"), ("", 1, "expected one argument"),
        ("ls+-2f", 1, "the argument is no command"), ("-00", 1, "NUL"),
        ("no.such.program", 127, "no.such.program: no such program"),
        ("-2Fnone", 127, "/none"), ("-2Fetc-2Fpasswd", 126, "/etc/passwd"),
    ])
    func explainsWhatItCannotRun(argument: String?, status: Int32, text: String) throws {
        let ended = try serve("qubes.VMExec", argument)
        #expect(ended.status == status)
        #expect(ended.output == "")
        #expect(ended.error.contains(text), "\(ended.error)")
    }

    @Test(arguments: ["qubes.VMShell", "qubes.VMRootShell"])
    func runsWhatTheInputSays(service: String) throws {
        let ended = try serve(service, input: "read x; echo $x; exit 3\nnext\nnever\n")
        #expect(ended.status == 3)
        #expect(ended.output == "next\n")
        #expect(try serve(service, "WaitForSession", input: "echo a").output == "a\n")
    }

    @Test(arguments: ["--c", "-c", "/etc/passwd", "waitforsession"])
    func givesTheShellNoArguments(argument: String) throws {
        let ended = try serve("qubes.VMShell", argument, input: "echo ran")
        #expect(ended.status == 1)
        #expect(ended.output == "")
    }

    @Test func startsAnApplication() throws {
        try program(
            "my-app", "cat > $HOME/input; echo \"$PWD $1\" > $HOME/started; echo out; exit 4")
        try scene.there.write(
            ".local/share/applications/my.desktop", "[Desktop Entry]\nExec=my-app 'x'\nPath=/usr\n")
        let ended = try serve("qubes.StartApp", "my", input: "the caller's")
        #expect(ended.status == 4)
        #expect(ended.output == "")
        #expect(scene.there.text("started") == "/usr 'x'\n")
        #expect(scene.there.text("input") == "")
    }

    @Test(arguments: [
        nil, "", "nothing.such", "..", "../x", "-x", "a+b", String(repeating: "n", count: 3000),
    ])
    func startsNothingElse(argument: String?) throws {
        let ended = try serve("qubes.StartApp", argument)
        #expect(ended.status == 1)
        #expect(ended.output == "")
        #expect(!ended.error.isEmpty)
    }

    @Test func tellsTheDate() throws {
        let before = Int(time(nil))
        let plain = try serve("qubes.GetDate").output
        let precise = try serve("qubes.GetDate", "nanoseconds").output
        let after = Int(time(nil))
        let date = try #require(DateText(plain.dropLast()))
        #expect((before...after).contains(date.seconds))
        #expect(plain.utf8.count == 26)
        #expect(precise.utf8.count == 36)
        #expect(DateText(precise.dropLast()) != nil)
        #expect(try serve("qubes.GetDate", "ns").output.utf8.count == 36)
        #expect(try serve("qubes.GetDate", "+%s").status == 1)
    }

    @Test func leavesARightClockAlone() throws {
        let now = DateText(seconds: Int(time(nil)), nanoseconds: 0)
        let text = now.text(withNanoseconds: false)
        #expect(try serve("qubes.SetDateTime", input: text + "\n").status == 0)
        #expect(try serve("qubes.SetDateTime", input: text).status == 0)
    }

    @Test(arguments: [
        "", "\n", "yesterday\n", "$(reboot)\n", "2026-02-30T00:00:00Z\n",
        String(repeating: "2", count: 100_000),
    ])
    func refusesADateThatIsNone(input: String) throws {
        let ended = try serve("qubes.SetDateTime", input: input)
        #expect(ended.status == 1)
        #expect(ended.error.contains("expected one line with a date"))
    }

    @Test func doesNotWaitForASessionThatCannotCome() throws {
        let user = String(cString: getpwuid(geteuid()).pointee.pw_name)
        #expect(try serve("qubes.WaitForSession", input: user + "\n").status == 0)
        #expect(try serve("qubes.WaitForSession").status == 0)
    }

    @Test(arguments: [
        "../../x", "no-such-user", "..", String(repeating: "x", count: 1000), "\u{0}",
    ])
    func waitsForUsersOnly(user: String) throws {
        #expect(try serve("qubes.WaitForSession", input: user + "\n").status == 1)
    }

    @Test func waitsUntilTheForkServerIsThere() throws {
        let socket = scene.there.path + "/server.sock"
        let waiting = Background {
            WaitForSessionService.wait(for: socket, isExpected: true)
            return true
        }
        usleep(100_000)
        let listener = try UnixSocket.listen(socket, mode: 0o600)
        #expect(waiting.wait())
        _ = consume listener
    }

    @Test func runsHooksInOrderAndReportsThoseThatFail() throws {
        let directory = scene.there.path + "/hooks.d"
        for (name, script) in [
            ("20-second", "echo two >> ${0%/*}/../ran"),
            ("10-first", "echo one >> ${0%/*}/../ran; exit 3"),
            ("30-old.bak", "echo never >> ${0%/*}/../ran"),
            (".hidden", "echo never >> ${0%/*}/../ran"),
        ] {
            try scene.there.writeProgram("hooks.d/" + name, script)
        }
        try scene.there.write("hooks.d/15-not-executable", "echo never")
        #expect(
            Hooks.files(in: [directory, "/none"]).map { $0.split(separator: "/").last! }
                == ["10-first", "20-second"])
        #expect(!Hooks.run([directory], reporter: "test"))
        #expect(scene.there.text("ran") == "one\ntwo\n")
    }

    @Test(arguments: SuspendServices.names)
    func servesSuspendWithoutAnythingToDo(service: String) throws {
        let ended = try serve(service, input: "no data")
        #expect(ended.status == 0)
        #expect(ended.output == "")
    }

    @Test func letsAPersonChooseAFile() throws {
        try program("zenity", #"printf '%s\n' "$*" > $HOME/asked; echo "/home/user/my file""#)
        let environment = ["DISPLAY": ":9"]
        let file = try serve("qubes.SelectFile", environment: environment)
        #expect(file.status == 0)
        #expect(file.output == "/home/user/my file\n")
        #expect(scene.there.text("asked") == "--file-selection --title=work asks for a file\n")
        _ = try serve("qubes.SelectDirectory", environment: environment)
        #expect(scene.there.text("asked")!.contains("asks for a directory --directory"))
    }

    @Test(arguments: [
        ("exit 1", 0), ("exit 5", 1), ("echo relative", 1), ("printf '/a\\n/b\\n'", 1),
        ("head -c 100000 /dev/zero | tr '\\0' /", 1), ("true", 1),
    ])
    func sendsNothingButOnePath(chooser: String, status: Int32) throws {
        try program("zenity", chooser)
        let ended = try serve("qubes.SelectFile", environment: ["DISPLAY": ":9"])
        #expect(ended.status == status)
        #expect(ended.output == "")
    }

    @Test func cannotAskWithoutAScreen() throws {
        #expect(try serve("qubes.SelectFile").error.contains("no graphical session"))
        let hostile = ["DISPLAY": ":9", "QREXEC_REMOTE_DOMAIN": "--title=trusted"]
        #expect(try serve("qubes.SelectFile", environment: hostile).status == 1)
    }

    @Test func givesAPictureAsPixels() throws {
        let ppm = "P6 2 1 127\n\u{7F}\u{0}\u{0}\u{0}\u{7F}\u{0}"
        let expected = Data("2 1\n".utf8) + Data([255, 0, 0, 255, 0, 255, 0, 255])
        try scene.there.write("picture.ppm", ppm)
        let path = scene.there.path + "/picture.ppm"
        for input in ["-\n" + ppm, "ppm:-\n" + ppm, path + "\n"] {
            let ended = try serve("qubes.GetImageRGBA", input: input)
            #expect(ended.status == 0)
            #expect(ended.output == String(decoding: expected, as: UTF8.self))
        }
    }

    /// Runs a program of this machine to its end.
    private func run(_ program: String, _ arguments: String...) throws -> Int32 {
        let process = try Process.run(URL(fileURLWithPath: program), arguments: arguments)
        process.waitUntilExit()
        return process.terminationStatus
    }

    /// The answer is a picture of 8 × 8 pixels, each as red as its compression leaves it.
    private func expectRed(_ ended: Ended, sourceLocation: SourceLocation = #_sourceLocation) {
        let head = Array("8 8\n".utf8)
        #expect(ended.status == 0, "\(ended.error)", sourceLocation: sourceLocation)
        #expect(ended.bytes.starts(with: head), sourceLocation: sourceLocation)
        #expect(ended.bytes.count == head.count + 256, sourceLocation: sourceLocation)
        let pixels = ended.bytes.dropFirst(head.count)
        for (offset, value) in pixels.enumerated() {
            let isRight = offset % 4 == 0 || offset % 4 == 3 ? value > 240 : value < 15
            #expect(isRight, "byte \(offset) is \(value)", sourceLocation: sourceLocation)
        }
    }

    @Test(arguments: ["png", "jpeg", "gif", "xpm", "bmp", "tiff"])
    func givesPicturesOfManyFormats(format: String) throws {
        let pixels = (0..<64).flatMap { _ in [255, 0, 0] as [UInt8] }
        try scene.there.write("red.ppm", Array("P6 8 8 255\n".utf8) + pixels)
        let blue = String(repeating: "\0\0\u{7F}", count: 64)
        try scene.there.write("blue.ppm", "P6 8 8 255\n" + blue)
        let (red, path) = (scene.there.path + "/red.ppm", scene.there.path + "/picture")
        // Of a picture that moves, the first one.
        let rest = format == "gif" ? scene.there.path + "/blue.ppm" : red
        #expect(try run("/usr/bin/gm", "convert", red, rest, "\(format):\(path)") == 0)
        expectRed(try serve("qubes.GetImageRGBA", input: path + "\n"))
        let bytes = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
        expectRed(try serve("qubes.GetImageRGBA", bytes: Array("-\n".utf8) + bytes))
        expectRed(try serve("qubes.GetImageRGBA", bytes: Array("\(format):-\n".utf8) + bytes))
    }

    @Test(arguments: ["", "<?xml version=\"1.0\"?>\n", "\u{FEFF}\n<!-- by hand -->\n"])
    func givesDrawings(start: String) throws {
        let svg =
            start + "<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'>"
            + "<rect width='8' height='8' fill='#f00'/></svg>"
        expectRed(try serve("qubes.GetImageRGBA", input: "-\n" + svg))
        expectRed(try serve("qubes.GetImageRGBA", input: "svg:-\n" + svg))
    }

    @Test(arguments: [
        "<svg xmlns='http://www.w3.org/2000/svg' width='99999999' height='99999999'/>",
        "<svg xmlns='http://www.w3.org/2000/svg' width='0' height='8'/>", "<svg>", "<svg",
        "<!DOCTYPE svg [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>"
            + "<!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'><!ENTITY d '&c;&c;&c;&c;&c;&c;&c;&c;'>"
            + "<!ENTITY e '&d;&d;&d;&d;&d;&d;&d;&d;'><!ENTITY f '&e;&e;&e;&e;&e;&e;&e;&e;'>]>"
            + "<svg width='8' height='8'>&f;&f;&f;&f;&f;&f;</svg>",
    ])
    func drawsNothingAbsurd(svg: String) throws {
        let ended = try serve("qubes.GetImageRGBA", input: "-\n" + svg)
        #expect(ended.status == 1)
        #expect(ended.output == "")
        #expect(ended.error.contains("qubes.GetImageRGBA: "))
    }

    /// The beginning of a PNG of a size, as a converter may claim it.
    private static func claim(_ size: String) -> String {
        #"printf '\211PNG\r\n\032\n\0\0\0\rIHDR\#(size)\010\6\0\0\0\0\0\0\0'"#
    }

    @Test(arguments: [
        "exit 3", "true", "echo no picture", "exec yes", "kill -9 $$", "cat",
        "cat /dev/zero | head -c 200000000", claim(#"\177\377\377\377\177\377\377\377"#),
        claim(#"\0\0\0\0\0\0\0\1"#), claim(#"\0\0\1\0\0\0\1\0"#),
    ])
    func believesNoConverterThatLies(converter: String) throws {
        for name in ["magick", "convert"] { try program(name, converter) }
        let ended = try serve("qubes.GetImageRGBA", bytes: [0x2D, 0x0A, 0xFF, 0xD8, 0xFF, 0xE0])
        #expect(ended.status == 1)
        #expect(ended.bytes == [])
        #expect(ended.error.contains("qubes.GetImageRGBA: the picture cannot be used"))
    }

    @Test(arguments: [
        "", "\n", "/none\n", "/etc\n", "/etc/passwd\n", "/dev/zero\n", "-\nno picture",
        "-\n", "msl:-\n<image/>", "mvg:-\npush graphic-context", "../x:-\n", ":-\n", "xdgicon:\n",
        "xdgicon:../../etc/passwd\n", "@/etc/passwd\n", "|id\n", "-\nP6 99999999 9999999 255\n",
        "-\n\u{1}PNG", String(repeating: "x", count: 5000),
    ])
    func givesNoPictureOfAnythingElse(input: String) throws {
        let ended = try serve("qubes.GetImageRGBA", input: input)
        #expect(ended.status == 1)
        #expect(ended.output == "")
        #expect(ended.error.hasPrefix("qubes.GetImageRGBA: "))
    }
}

@Suite struct FeaturesRequestTests {
    private func parsed(_ text: String) throws -> [String] {
        try FeaturesRequest(Array(text.utf8)).features.map { "\($0.key)=\($0.value)" }
    }

    @Test func comesBackAsItWasWritten() throws {
        let request = FeaturesRequest(services: ["qubes.Filecopy", "my.Service"])
        let bytes = try request.file().readAll(limit: 1000)
        #expect(try FeaturesRequest(bytes) == request)
        #expect(try parsed("") == [])
    }

    @Test(arguments: [
        "x", "x=1", "internal=1", "supported-rpc.=1", "vmexec=1\nvmexec=1", "os=a b", "os=\u{7F}",
        "supported-rpc.a/b=1", "supported-rpc.a+b=1", "os=\(String(repeating: "x", count: 65))",
        (0...4000).map { "supported-rpc.s\($0)=1" }.joined(separator: "\n"),
    ])
    func saysNothingElse(text: String) {
        #expect(throws: FeaturesRequest.Invalid.self) { try parsed(text) }
    }
}
