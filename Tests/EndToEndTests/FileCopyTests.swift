import Foundation
import Testing

extension EndToEnd {
    @Suite("Files that are copied between qubes", .serialized)
    struct FileCopy {
        let lab: Lab
        let incoming = "QubesIncoming/work"

        init() throws {
            lab = try Lab.shared.get()
            try lab.setPolicy("10-copy", "qubes.Filecopy * work @anyvm allow\n")
            for qube in ["work", "personal", "small"] {
                try lab.script(qube, "cd && chmod -R u+rwx . && find . -mindepth 1 -delete")
                    .expectSuccess()
            }
        }

        /// A list of everything below a directory, with modes, times, sums and link targets.
        private func listing(_ qube: String, _ directory: String) throws -> String {
            let outcome = try lab.script(
                qube,
                """
                cd ~/'\(directory)' && find . -mindepth 1 -printf '%P %y %m %T@ %s %l\\n' |
                    sed -E 's/ d ([0-7]+) ([0-9.]+) [0-9]+ / d \\1 \\2 /' | LC_ALL=C sort
                find . -type f -exec sha256sum {} + | LC_ALL=C sort
                """)
            outcome.expectSuccess()
            return outcome.text
        }

        @Test("Names that people give arrive as they are")
        func names() throws {
            let names = [
                "with space", "ünïcödé ł.txt", "日本語", "кириллица", "-dash", "a'b\"c$d`e", "…",
                ".hidden", "trailing ", "*", "\\",
            ]
            let make = #"cd && for name; do echo "$name" > "./$name"; done"#
            try lab.run("work", ["bash", "-c", make, "sh"] + names).expectSuccess()
            // From outside: a shell would take some of these names apart.
            let paths = names.map { "/home/user/\($0)" }
            try lab.run("work", ["qvm-copy-to-vm", "personal"] + paths).expectSuccess()
            let arrived = try lab.script("personal", "cd ~/\(incoming) && ls -A -N --sort=none")
            #expect(Set(arrived.text.split(separator: "\n").map(String.init)) == Set(names))
            let show = "cd ~/\(incoming) && cat -- \"$@\""
            let contents = try lab.run("personal", ["bash", "-c", show, "sh"] + names).text
            #expect(contents == names.map { $0 + "\n" }.joined())
        }

        @Test("A tree of 5,000 files arrives with its contents, modes, times and links")
        func tree() throws {
            try lab.script(
                "work",
                """
                mkdir -p ~/tree && cd ~/tree && umask 022
                for d in {1..50}; do
                    mkdir $d; for f in {1..100}; do echo "$d $f" > $d/$f; done
                done
                head -c 300000 /dev/urandom > big; : > empty; mkdir -p deep/er/est none
                ln -s ../big deep/link; ln -s nowhere deep/dangling
                chmod 600 big; chmod 755 1/1; chmod 440 1/2; chmod 700 2
                touch -d '2001-02-03 04:05:06.789012345' big 1/1; find . -depth -type d \
                    -exec touch -d '2011-12-13 14:15:16.123456789' {} +
                """
            ).expectSuccess()
            let copied = try lab.run("work", ["qvm-copy-to-vm", "personal", "/home/user/tree"])
            copied.expectSuccess()
            let sent = try listing("work", "tree")
            let arrived = try listing("personal", "\(incoming)/tree")
            #expect(sent.split(separator: "\n").count > 10_000)
            #expect(sent == arrived, "\(difference(sent, arrived))")
        }

        /// The first lines that differ.
        private func difference(_ first: String, _ second: String) -> String {
            let lines = first.split(separator: "\n")
                .difference(from: second.split(separator: "\n"))
            return lines.prefix(10).map { "\($0)" }.joined(separator: "\n")
        }

        /// A stream by hand, as a sender sends it that lies about names: name, mode, contents.
        private func send(_ name: String, mode: String = "0100644", argument: String = "") throws
            -> (status: Int32, code: UInt32, named: String)
        {
            let script = #"""
                my ($name, $mode) = @ARGV; $name =~ s/\\x(..)/chr hex $1/ge;
                my $body = "body"; binmode STDOUT;
                print pack("VVVVVVVV", 1 + length $name, oct $mode, length $body, 0, 1, 0, 1, 0),
                    $name, "\0", $body, "\0" x 32;
                """#
            let outcome = try lab.run(
                "work",
                [
                    "bash", "-c",
                    #"perl -e "$0" -- "$1" "$2" | qrexec-client-vm personal "qubes.Filecopy$3""#,
                    script, name, mode, argument,
                ])
            let bytes = outcome.output
            try #require(bytes.count >= 16, "\(outcome)")
            let code = (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[$1]) << UInt32(8 * $1) }
            return (outcome.status, code, String(decoding: bytes.dropFirst(20), as: UTF8.self))
        }

        /// `\xNN` in it is a byte.
        struct HostileName: CustomTestStringConvertible {
            var name: String
            var code: UInt32 = 84
            var testDescription: String { String(name.prefix(20)) }
        }

        static let hostileNames =
            [
                "../x", "/etc/x", "a/../../x", "..", ".", #"a\x0ab"#, #"a\x1b[31m"#, #"\xff\xfe"#,
                "a//b", "x/", #"rtl\xe2\x80\xaetxt"#,
            ].map { HostileName(name: $0) } + [
                HostileName(name: String(repeating: "n", count: 300), code: 36),
                HostileName(name: String(repeating: "p/", count: 8200) + "x", code: 36),
            ]

        @Test(
            "Hostile names are refused, with the name told, and nothing is written",
            arguments: hostileNames)
        func hostile(_ hostile: HostileName) throws {
            let answer = try send(hostile.name)
            #expect(answer.code == hostile.code)
            #expect(answer.status == Int32(hostile.code & 0xFF))
            // A name past the limit is never read, so it cannot be told.
            if hostile.name.utf8.count < 16_384, !hostile.name.contains(#"\x"#) {
                #expect(answer.named.hasPrefix(hostile.name))
            }
            let left = try lab.script("personal", "cd && find . -type f; ls /home/user/x /etc/x")
            #expect(left.text == "")
        }

        @Test("What the people's tool says about a refused name has no control characters")
        func refusedNameIsShown() throws {
            let name = "bad\u{1B}[31m\u{7}name"
            try lab.run("work", ["bash", "-c", #"echo x > ~/"$0""#, name]).expectSuccess()
            try lab.setPolicy("09-copy", "qubes.Filecopy +allow-all-names * @anyvm deny\n")
            defer { try? lab.setPolicy("09-copy", nil) }
            let outcome = try lab.run("work", ["qvm-copy-to-vm", "personal", "/home/user/\(name)"])
            #expect(outcome.status != 0)
            #expect(!outcome.errors.utf8.contains { $0 < 32 && $0 != 10 && $0 != 13 && $0 != 9 })
            #expect(try lab.script("personal", "cd && find . -type f").text == "")
        }

        @Test("An honest stream made by hand is taken")
        func handmade() throws {
            let answer = try send("fine")
            #expect(answer.status == 0)
            #expect(answer.code == 0)
            let text = try lab.run("personal", ["cat", "/home/user/\(incoming)/fine"]).text
            #expect(text == "body")
        }

        @Test(
            "An existing file is kept, and told; a move keeps what did not arrive",
            arguments: ["qvm-copy-to-vm", "qvm-move-to-vm"])
        func existing(_ tool: String) throws {
            try lab.script("personal", "mkdir -p ~/\(incoming); echo old > ~/\(incoming)/file")
                .expectSuccess()
            try lab.script("work", "echo new > ~/file").expectSuccess()
            let outcome = try lab.run("work", [tool, "personal", "/home/user/file"])
            #expect(outcome.status != 0)
            #expect(outcome.errors.contains("file"))
            #expect(try lab.script("personal", "cat ~/\(incoming)/file").text == "old\n")
            #expect(try lab.script("work", "cat ~/file").text == "new\n")
        }

        @Test("A move deletes what arrived")
        func move() throws {
            try lab.script("work", "mkdir -p ~/dir/sub; echo a > ~/dir/sub/a; echo b > ~/b")
                .expectSuccess()
            try lab.script("work", "cd && qvm-move-to-vm personal dir b").expectSuccess()
            #expect(try lab.script("work", "ls -A ~").text == "")
            let arrived = try lab.script("personal", "cd ~/\(incoming) && cat dir/sub/a b")
            #expect(arrived.text == "a\nb\n")
        }

        @Test(
            "A full disk is an error that says so; nothing half-written is left and nothing moved")
        func fullDisk() throws {
            try lab.script("work", "echo first > ~/first; head -c 8M /dev/urandom > ~/second")
                .expectSuccess()
            let outcome = try lab.script("work", "cd && qvm-move-to-vm small first second")
            #expect(outcome.status != 0)
            #expect(outcome.errors.contains("No space left"))
            #expect(outcome.errors.contains("second"))
            #expect(try lab.script("small", "cd ~/\(incoming) && ls").text == "first\n")
            #expect(try lab.script("work", "ls ~").text.contains("second"))
            let free = "cd; df --output=avail -k . | tail -n 1"
            #expect(try Int(lab.script("small", free).text.filter(\.isNumber)) ?? 0 > 3000)
        }

        @Test(
            "An interrupted sender leaves nothing half-written, and moves nothing",
            arguments: [
                SIGINT, SIGTERM, SIGKILL,
            ])
        func interrupted(_ signal: Int32) throws {
            try lab.script("work", "echo small > ~/a; truncate -s 16G ~/b").expectSuccess()
            let sender = try lab.start(
                "work", ["bash", "-c", "cd && echo $$ && exec qvm-move-to-vm personal a b"])
            try sender.expect("\n")
            let pid = try #require(Int(sender.outputText.prefix { $0.isNumber }))
            try eventually("the first file is there") {
                try lab.script("personal", "test -e ~/\(incoming)/a").status == 0
            }
            try lab.script("work", "kill -\(signal) \(pid)").expectSuccess()
            #expect(try sender.wait().status != 0)
            #expect(try lab.script("work", "ls ~").text == "a\nb\n")
            try eventually("the receiver is gone") {
                try !lab.processes("personal").contains {
                    $0.command.contains("qfile-unpacker") || $0.command.contains("qubes.Filecopy")
                }
            }
            #expect(try lab.script("personal", "cd ~/\(incoming) && ls -A").text == "a\n")
            try lab.script("work", "rm ~/b").expectSuccess()
        }

        @Test("What comes to a name that is taken gets another one where the qube wants that")
        func renamed() throws {
            let settings = "mkdir -p ~/.config/qubes; echo existing = rename > $_/filecopy.conf"
            try lab.script("personal", settings).expectSuccess()
            for text in ["first", "second"] {
                try lab.script("work", "cd && echo \(text) > a.txt").expectSuccess()
                try lab.script("work", "cd && qvm-copy-to-vm personal a.txt").expectSuccess()
            }
            let arrived = try lab.script("personal", "cd ~/\(incoming) && cat a.txt 'a (1).txt'")
            #expect(arrived.text == "first\nsecond\n")
        }

        @Test("dom0 copies and moves to a qube that it names")
        func fromDom0() throws {
            let make = "cd && rm -rf d && mkdir d && echo x > 'd/a b' && printf '\\1' > d/$'o\\1dd'"
            try lab.script("dom0", make).expectSuccess()
            try lab.script("dom0", "cd && qvm-copy-to-vm personal d").expectSuccess()
            let arrived = "cd ~/QubesIncoming/dom0 && cat 'd/a b'"
            #expect(try lab.script("personal", arrived).text == "x\n")
            let again = try lab.script("dom0", "cd && qvm-move-to-vm personal d")
            #expect(again.status == 17)
            #expect(again.errors.contains("Nothing was deleted here"))
            try lab.script("personal", "rm -r ~/QubesIncoming/dom0").expectSuccess()
            try lab.script("dom0", "cd && qvm-move-to-vm personal d && ! test -e d").expectSuccess()
            #expect(try lab.script("personal", arrived).text == "x\n")
            #expect(try lab.script("dom0", "qvm-copy-to-vm nowhere /etc/hostname").status == 125)
            let nameless = try lab.script("dom0", "qvm-copy /etc/hostname")
            #expect(nameless.status == 1)
            #expect(nameless.errors.contains("qvm-copy-to-vm QUBE"))
        }

        @Test("A desktop and a terminal see how far a copy is")
        func progress() throws {
            try lab.script("work", "head -c 3000000 /dev/urandom > ~/big").expectSuccess()
            let copy = "cd && qvm-copy-to-vm personal big"
            let numbers = try lab.script("work", "export PROGRESS_TYPE=gui; \(copy)").text
                .split(separator: "\n").map { Int($0) }
            #expect(numbers.first == 0)
            #expect(numbers.last == 3_000_000)
            try lab.script("personal", "rm ~/\(incoming)/big").expectSuccess()
            let shown = try lab.script("work", "cd && qvm-copy-to-vm --with-progress personal big")
            #expect(shown.errors.contains("sent 2.8 MiB, "), "\(shown.errors)")
        }
    }
}
