import Foundation
import Testing

extension EndToEnd {
    @Suite("The clipboard between qubes", .serialized)
    struct Clipboard {
        let lab: Lab

        init() throws {
            lab = try Lab.shared.get()
            _ = try clipboard("clear")
            for qube in ["work", "personal", "vault"] {
                try lab.script(qube, "rm -f ~/.qubes-clipboard").expectSuccess()
            }
        }

        private func clipboard(_ arguments: String...) throws -> Outcome {
            try lab.run("dom0", ["qubes-clipboard"] + arguments)
        }

        /// Fills a qube's clipboard, which is a file where there is no display.
        private func fill(_ qube: String, _ text: String) throws {
            try lab.run(
                qube, ["bash", "-c", "cat > ~/.qubes-clipboard"], input: text
            ).expectSuccess()
        }

        private func text(_ qube: String) throws -> String {
            try lab.script(qube, "cat ~/.qubes-clipboard 2>/dev/null; :").text
        }

        private func waitForNoExpiry() {
            eventually("nothing waits in the background") {
                (try? lab.processes("dom0").contains { $0.command.contains("clipboard") }) == false
            }
        }

        @Test("A text goes from one qube to another, once")
        func once() throws {
            try fill("work", "a text\nof two lines, ünïcödé")
            let copied = try clipboard("copy", "work")
            #expect(copied.status == 0, "\(copied.errors)")
            #expect(try clipboard("status").text.contains("source: work\nsize: 32\n"))
            let pasted = try clipboard("paste", "personal")
            #expect(pasted.status == 0, "\(pasted.errors)")
            #expect(try text("personal") == "a text\nof two lines, ünïcödé")
            #expect(try clipboard("status").text == "empty\n")
            let again = try clipboard("paste", "vault")
            #expect(again.status == 1)
            #expect(again.errors.contains("empty"))
            #expect(try text("vault") == "")
            waitForNoExpiry()
        }

        @Test("The policy decides by the source and the target")
        func policy() throws {
            try lab.setPolicy(
                "10-clipboard", "qubes.ClipboardPaste * vault personal deny\n")
            try fill("vault", "secret")
            #expect(try clipboard("copy", "vault").status == 0)
            let denied = try clipboard("paste", "personal")
            #expect(denied.status == 126)
            #expect(denied.errors.contains("vault") && denied.errors.contains("personal"))
            #expect(try text("personal") == "")
            // It may go elsewhere.
            #expect(try clipboard("paste", "work").status == 0)
            #expect(try text("work") == "secret")
            try lab.setPolicy("10-clipboard", nil)
        }

        @Test("A shorter text leaves nothing of a longer one")
        func noTail() throws {
            try fill("personal", String(repeating: "long ", count: 1000))
            try fill("work", "short")
            #expect(try clipboard("copy", "personal").status == 0)
            #expect(try clipboard("copy", "work").status == 0)
            #expect(try clipboard("paste", "personal").status == 0)
            #expect(try text("personal") == "short")
        }

        @Test("A text of the largest size arrives, a larger one is refused and reported")
        func limits() throws {
            try fill("work", String(repeating: "x", count: 64_000))
            #expect(try clipboard("copy", "work").status == 0)
            #expect(try clipboard("paste", "personal").status == 0)
            #expect(try text("personal").utf8.count == 64_000)
            try fill("work", String(repeating: "x", count: 64_001))
            let refused = try clipboard("copy", "work")
            #expect(refused.status == 1)
            #expect(refused.errors.contains("larger than 64000 bytes"))
            #expect(try clipboard("status").text == "empty\n")
        }

        @Test("The limit and the time can be configured")
        func configuration() throws {
            let path = try lab.qube("dom0").root + "/etc/qubes/clipboard.conf"
            defer { try? FileManager.default.removeItem(atPath: path) }
            try "limit = 256\ntimeout = 1\n".write(
                toFile: path, atomically: false, encoding: .utf8)
            try fill("work", String(repeating: "x", count: 257))
            #expect(try clipboard("copy", "work").status == 1)
            try fill("work", "text")
            #expect(try clipboard("copy", "work").status == 0)
            waitForNoExpiry()
            #expect(try lab.script("dom0", "cat /run/qubes/qubes-clipboard.bin").text == "")
            #expect(try clipboard("paste", "personal").status == 1)
        }

        @Test(
            "A hostile source stores nothing, and what was there is gone",
            arguments: [
                ("yes", "larger"), ("printf 'a\\0b'", "no text"), ("printf '\\377'", "no text"),
                ("exit 0", "empty"), ("echo part; exit 1", "status 1"), ("kill -9 $$", "status"),
                ("exec >&-; sleep 1000", "does not answer"),
            ])
        func hostileSource(_ script: String, _ reason: String) throws {
            try fill("work", "old")
            #expect(try clipboard("copy", "work").status == 0)
            try lab.install("qubes.ClipboardCopy", in: "vault", script)
            defer { remove("qubes.ClipboardCopy", in: "vault") }
            let copied = try clipboard("copy", "vault")
            #expect(copied.status == 1)
            #expect(copied.errors.contains(reason), "\(copied.errors)")
            #expect(try clipboard("status").text == "empty\n")
            eventually("nothing of the service is left") {
                (try? lab.processes("vault").contains { $0.command.hasPrefix("sleep 1000") })
                    == false
            }
        }

        @Test("A hostile target cannot hold anything up, and gets a text once at most")
        func hostileTarget() throws {
            try fill("work", "text")
            for (script, isBack) in [("sleep 1000", false), ("exit 1", false), ("exit 125", true)] {
                #expect(try clipboard("copy", "work").status == 0)
                try lab.install("qubes.ClipboardPaste", in: "vault", script)
                defer { remove("qubes.ClipboardPaste", in: "vault") }
                #expect(try clipboard("paste", "vault").status == 1)
                #expect(try clipboard("status").text.hasPrefix(isBack ? "source: work" : "empty"))
            }
        }

        private func remove(_ service: String, in qube: String) {
            guard let root = try? lab.qube(qube).root else { return }
            try? FileManager.default.removeItem(
                atPath: "\(root)/usr/local/etc/qubes-rpc/\(service)")
        }

        @Test(
            "Qubes cannot reach each other's clipboards, whatever the policy says",
            arguments: ["qubes.ClipboardCopy", "qubes.ClipboardPaste"])
        func hostileCaller(_ service: String) throws {
            try fill("personal", "mine")
            let outcome = try lab.call(service, input: "injected")
            #expect(outcome.status == 1)
            #expect(outcome.text == "")
            #expect(outcome.errors.contains("only dom0 may call this"))
            #expect(try text("personal") == "mine")
        }

        @Test(
            "What cannot be is explained",
            arguments: [
                (["copy", "nowhere"], 1), (["copy", "sleeper-too"], 1),
                (["copy", "../x"], 1),
                (["paste", "nowhere"], 1), (["copy"], 2), (["paste", "a", "b"], 2), ([], 2),
                (["status", "work"], 2), (["steal"], 2),
            ] as [([String], Int32)])
        func problems(_ arguments: [String], _ status: Int32) throws {
            let outcome = try lab.run("dom0", ["qubes-clipboard"] + arguments)
            #expect(outcome.status == status)
            #expect(!outcome.errors.isEmpty)
        }

        // MARK: A real display

        /// An X server in a qube, for its programs and the services alike.
        /// Without -noreset the server would begin anew when its last client leaves, and throw out who
        /// has come just then.
        private func startX(_ qube: String) throws -> Program {
            let server = try lab.start(
                qube,
                [
                    "bash", "-c",
                    "mkdir -p -m 1777 /tmp/.X11-unix; "
                        + "exec Xvfb :9 -noreset -nolisten tcp -displayfd 1",
                ])
            try server.expect("9")
            return server
        }

        @Test("The selection of a real program on a real X server goes to another one")
        func display() throws {
            let servers = try ["work", "personal"].map { try startX($0) }
            defer {
                for server in servers {
                    server.signal(SIGTERM)
                    _ = try? server.finish()
                }
            }
            // Nothing is selected yet.
            #expect(try clipboard("copy", "work").errors.contains("is empty"))
            let owner = try lab.start(
                "work", ["bash", "-c", "DISPLAY=:9 exec xclip -selection clipboard -i -quiet"],
                input: Array("selected ünïcödé\n".utf8))
            eventually("the program owns the selection") {
                (try? clipboard("copy", "work").status) == 0
            }
            #expect(try clipboard("paste", "personal").status == 0)
            let shown = try lab.script(
                "personal", "DISPLAY=:9 xclip -selection clipboard -o -target UTF8_STRING")
            #expect(shown.text == "selected ünïcödé\n")
            // A shorter one replaces it whole.
            try lab.script(
                "work", "printf short | DISPLAY=:9 xclip -selection clipboard -i >/dev/null 2>&1"
            ).expectSuccess()
            #expect(try clipboard("copy", "work").status == 0)
            #expect(try clipboard("paste", "personal").status == 0)
            let short = try lab.script("personal", "DISPLAY=:9 xclip -selection clipboard -o")
            #expect(short.text == "short")
            owner.signal(SIGTERM)
            _ = try owner.finish()
        }

        @Test("A program that keeps its selection to itself is an error, and no empty clipboard")
        func silentOwner() throws {
            let server = try startX("work")
            defer {
                server.signal(SIGTERM)
                _ = try? server.finish()
            }
            let owner = try lab.start(
                "work", ["bash", "-c", "DISPLAY=:9 exec xclip -selection clipboard -i -quiet"],
                input: Array("kept".utf8))
            eventually("the program owns the selection") {
                (try? clipboard("copy", "work").status) == 0
            }
            let pid = try #require(
                try lab.processes("work").first { $0.command.hasPrefix("xclip") }
            ).pid
            try lab.script("work", "kill -STOP \(pid)").expectSuccess()
            let copied = try clipboard("copy", "work")
            #expect(copied.status == 1)
            #expect(copied.errors.contains("does not give it"), "\(copied.errors)")
            #expect(try clipboard("status").text == "empty\n")
            try lab.kill(pid, in: "work")
            _ = try owner.finish()
        }

        /// A Wayland compositor without a screen in a qube.
        private func startWayland(_ qube: String) throws -> Program {
            let place = "/run/user/1000"
            try lab.script(
                qube, user: Lab.administrator,
                "mkdir -p \(place) && chown 1000 \(place) && chmod 700 \(place)"
            ).expectSuccess()
            let server = try lab.start(
                qube,
                [
                    "env", "XDG_RUNTIME_DIR=\(place)", "WLR_BACKENDS=headless",
                    "WLR_RENDERER=pixman", "WLR_LIBINPUT_NO_DEVICES=1", "sway", "-c", "/dev/null",
                ])
            try eventually("the compositor listens") {
                try lab.script(qube, "test -S \(place)/wayland-1").status == 0
            }
            return server
        }

        @Test("The selection of a Wayland session goes to another one")
        func wayland() throws {
            let servers = try ["work", "personal"].map { try startWayland($0) }
            defer {
                for server in servers {
                    server.signal(SIGTERM)
                    _ = try? server.finish()
                }
            }
            let session = "export XDG_RUNTIME_DIR=/run/user/1000 WAYLAND_DISPLAY=wayland-1;"
            #expect(try clipboard("copy", "work").errors.contains("is empty"))
            for text in ["selected ünïcödé, of some length\n", "short"] {
                let select = "\(session) wl-copy >/dev/null 2>&1"
                try lab.run("work", ["bash", "-c", select], input: text).expectSuccess()
                let copied = try clipboard("copy", "work")
                #expect(copied.status == 0, "\(copied.errors)")
                #expect(try clipboard("paste", "personal").status == 0)
                let shown = try lab.script("personal", "\(session) wl-paste --no-newline")
                #expect(shown.text == text)
            }
            // A picture is no text.
            try lab.script(
                "work", "\(session) echo x | wl-copy --type image/png >/dev/null 2>&1"
            ).expectSuccess()
            #expect(try clipboard("copy", "work").errors.contains("is empty"))
        }
    }
}
