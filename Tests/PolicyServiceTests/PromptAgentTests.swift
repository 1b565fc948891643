import Foundation
import LinuxSystem
import QrexecRuntime
import SystemPackage
import Testing

@testable import QrexecDom0

/// An agent on a terminal that is two pipes, and callers of its socket.
private final class PromptScene {
    let loop: EventLoop
    let root: String
    private var agent: PromptAgent?
    private var surface: PromptSurface?
    private var typed: Descriptor?
    private let shownPipe: Descriptor
    private let keyboard: Descriptor
    private let screen: Descriptor
    private(set) var hasEnded = false

    static let descriptor = "policy.Ask dom0 name dom0\0"

    init(window: String? = nil) throws {
        loop = try EventLoop()
        root = NSTemporaryDirectory() + "prompt-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(
            atPath: root, withIntermediateDirectories: true)
        let input = try Descriptor.pipe()
        let output = try Descriptor.pipe()
        keyboard = try input.first.duplicate()
        typed = try input.second.duplicate()
        shownPipe = try output.first.duplicate()
        screen = try output.second.duplicate()
        try shownPipe.setNonblocking(true)
        var log = Log(program: "test")
        let file = try Descriptor.open(root + "/log", O_WRONLY | O_CREAT | O_APPEND, mode: 0o600)
        log.descriptor = file.release()
        let surface: PromptSurface
        if let window {
            let path = root + "/window"
            try window.write(toFile: path, atomically: true, encoding: .utf8)
            try FileManager.default.setAttributes(
                [.posixPermissions: 0o755], ofItemAtPath: path)
            surface = WindowPrompt(loop, log: log, window: path, notifier: "/bin/true")
        } else {
            surface = try TerminalPrompt(
                loop, input: keyboard.number, output: screen.number
            ) { [unowned self] in self.hasEnded = true }
        }
        self.surface = surface
        agent = try PromptAgent(loop, path: root + "/agent.sock", surface: surface, log: log)
    }

    deinit {
        agent = nil
        surface = nil
        try? FileManager.default.removeItem(atPath: root)
    }

    var screenText: String {
        var buffer = [UInt8](repeating: 0, count: 65536)
        let count = (try? shownPipe.read(into: &buffer)) ?? 0
        text += String(decoding: buffer[..<count], as: UTF8.self)
        return text
    }
    private var text = ""

    func type(_ text: String) throws { try typed!.writeAll(Array(text.utf8)) }

    func closeKeyboard() { _ = typed.take() }

    func run(until condition: @escaping () -> Bool) throws {
        let end = CurrentProcess.now + seconds(20)
        func look() {
            if condition() || CurrentProcess.now > end {
                loop.stop()
            } else {
                loop.schedule(after: milliseconds(5), look)
            }
        }
        look()
        if !condition() { try loop.run() }
        try #require(condition(), "waited for twenty seconds")
    }

    func ask(_ json: String, descriptor: String = descriptor) throws -> Client {
        try Client(loop, root + "/agent.sock", descriptor + json, finish: true)
    }

    func answer(of client: Client) throws -> String {
        try run(until: { client.isDone })
        return String(decoding: client.answer, as: UTF8.self)
    }
}

@Suite("The prompt agent")
struct PromptAgentTests {
    static let question = """
        {"source":"work","service":"qubes.Filecopy","argument":"+x","targets":["personal","vault",\
        "@dispvm:default-dvm"],"default_target":"vault","icons":{"work":"appvm-blue"}}
        """

    @Test(
        "A person's answer is one of the targets or a refusal",
        arguments: [
            ("1\n", "allow:personal"), ("vault\n", "allow:vault"), ("pers\n", "allow:personal"),
            ("\n", "allow:vault"), ("disp\n", "allow:@dispvm:default-dvm"), ("deny\n", "deny"),
            ("\u{1b}\n", "deny"), ("untrusted\n4\n0\n-1\nn\n", "deny"),
            ("dom0\n2\n", "allow:vault"),
        ])
    func answers(_ typed: String, _ answer: String) throws {
        let scene = try PromptScene()
        let client = try scene.ask(Self.question)
        try scene.run(until: { scene.screenText.contains("Target:") })
        #expect(scene.screenText.contains("qubes.Filecopy+x"))
        try scene.type(typed)
        #expect(try scene.answer(of: client) == answer)
    }

    @Test("What was typed before the question was there for a second does not answer it")
    func guardTime() throws {
        let scene = try PromptScene()
        try scene.type("1\n1\n")
        let client = try scene.ask(Self.question)
        try scene.run(until: { scene.screenText.contains("The qube 'work'") })
        try scene.type("personal\n1\n")
        try scene.run(until: { scene.screenText.contains("Target:") })
        try scene.run(until: { true })
        #expect(!client.isDone)
        try scene.type("2\n")
        #expect(try scene.answer(of: client) == "allow:vault")
    }

    @Test("Questions come one after another, and one that is given up makes room")
    func queue() throws {
        let scene = try PromptScene()
        let first = try Client(
            scene.loop, scene.root + "/agent.sock", PromptScene.descriptor + Self.question,
            finish: true)
        try scene.run(until: { scene.screenText.contains("Target:") })
        let second = try scene.ask(Self.question.replacing("work", with: "mail"))
        try scene.type("deny\n")
        #expect(try scene.answer(of: first) == "deny")
        try scene.run(until: { scene.screenText.contains("The qube 'mail'") })
        try scene.run(until: { scene.screenText.components(separatedBy: "Target:").count == 3 })
        try scene.type("1\n")
        #expect(try scene.answer(of: second) == "allow:personal")
    }

    @Test("The end of the terminal denies what is open")
    func end() throws {
        let scene = try PromptScene()
        let client = try scene.ask(Self.question)
        try scene.run(until: { scene.screenText.contains("Target:") })
        try scene.type("vault")
        scene.closeKeyboard()
        #expect(try scene.answer(of: client) == "deny")
        #expect(scene.hasEnded)
    }

    @Test(
        "A default target that cannot be chosen is told and not preselected",
        arguments: ["nowhere", "work"])
    func badDefault(_ name: String) throws {
        let scene = try PromptScene()
        let client = try scene.ask(
            Self.question.replacing(
                "\"default_target\":\"vault\"", with: "\"default_target\":\"\(name)\""))
        try scene.run(until: { scene.screenText.contains("Target:") })
        #expect(scene.screenText.contains("! The default target"))
        try scene.type("\ndeny\n")
        #expect(try scene.answer(of: client) == "deny")
    }

    @Test(
        "A question that is none is denied",
        arguments: [
            "", "{", "[]", "{\"source\":\"work\"}",
            question.replacing("personal", with: "per\\u001bsonal"),
            question.replacing("[\"personal\"", with: "[\"vault\""),
            question.replacing("\"+x\"", with: "\"x\""),
            question.replacing("qubes.Filecopy", with: "a b"),
        ])
    func malformed(_ json: String) throws {
        let scene = try PromptScene()
        #expect(try scene.answer(of: try scene.ask(json)) == "deny")
    }

    @Test(
        "Only dom0 can ask", arguments: ["policy.Ask work\0", "policy.Ask\0", "", "other dom0\0"])
    func callers(_ descriptor: String) throws {
        let scene = try PromptScene()
        let client = try scene.ask(Self.question, descriptor: descriptor)
        #expect(try scene.answer(of: client) == "")
    }

    @Test("Notifications are shown with what a qube wrote made harmless")
    func notify() throws {
        let scene = try PromptScene()
        let client = try scene.ask(
            "{\"resolution\":\"deny\",\"service\":\"a.B\",\"argument\":\"+\",\"source\":\"work\","
                + "\"target\":\"x\\u001b[2Jy\"}", descriptor: "policy.Notify dom0\0")
        #expect(try scene.answer(of: client) == "")
        #expect(scene.screenText.contains("* work: a.B in x_[2Jy was denied\n"))
    }

    @Test(
        "A window's answer counts only if it is one of the targets",
        arguments: [
            ("cat >/dev/null; echo -n allow:vault", "allow:vault"),
            ("cat >/dev/null; echo -n allow:untrusted", "deny"), ("exit 1", "deny"),
            ("cat >/dev/null; echo -n deny", "deny"), ("kill -SEGV $$", "deny"),
            ("cat >/dev/null; yes allow:vault", "deny"),
        ])
    func windows(_ script: String, _ answer: String) throws {
        let scene = try PromptScene(window: "#!/bin/sh\n\(script)\n")
        #expect(try scene.answer(of: try scene.ask(Self.question)) == answer)
    }
}
