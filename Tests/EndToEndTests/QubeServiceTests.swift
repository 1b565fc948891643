import Foundation
import Testing

extension EndToEnd {
    @Suite("Services about a qube itself", .serialized)
    struct QubeServices {
        let lab: Lab

        init() throws { lab = try Lab.shared.get() }

        /// What qubesd says, from dom0.
        private func qubesd(_ request: String) throws -> String {
            let script = """
                socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;
                connect($s, pack_sockaddr_un("/run/qubesd.sock")) or die $!;
                syswrite($s, "$ARGV[0]\\0"); shutdown($s, 1);
                while (sysread($s, my $b, 65536)) { $b =~ s/\\0/|/g; print $b }
                """
            return try lab.run("dom0", ["perl", "-MSocket", "-e", script, request]).text
        }

        private func feature(_ name: String, of qube: String) throws -> String {
            try qubesd("admin.vm.feature.Get+\(name) dom0 name \(qube)")
        }

        @Test("A qube tells dom0 which services it has when its packages have changed")
        func postInstall() throws {
            try lab.install("test.Reported", in: "vault", "true")
            try lab.script(
                "vault", user: Lab.administrator,
                """
                mkdir -p /etc/qubes/post-install.d && cd /etc/qubes/post-install.d
                printf '#!/bin/sh\\ntouch /tmp/hook-ran\\n' > 10-test.sh; chmod 755 10-test.sh
                """
            ).expectSuccess()
            let command = "\(Lab.administrator):QUBESRPC qubes.PostInstall dom0"
            let outcome = try lab.run("dom0", ["qrexec-client", "-d", "vault", command])
            #expect(outcome.status == 0, "\(outcome.errors)")
            #expect(try lab.script("vault", "test -e /tmp/hook-ran").status == 0)
            #expect(try feature("supported-rpc.test.Reported", of: "vault") == "0|1")
            #expect(try feature("supported-rpc.qubes.VMExec", of: "vault") == "0|1")
            #expect(try feature("vmexec", of: "vault") == "0|1")
            // Now qvm-run knows that words need no shell.
            let words = try lab.run("dom0", ["qvm-run", "-p", "vault", "--", "echo", "$HOME"])
            #expect(words.text == "$HOME\n")
        }

        @Test(
            "A hostile qube says nothing about itself but what it can do",
            arguments: [
                "internal=1\n", "guivm=work\n", "no line", "=1\n", "supported-rpc.=1\n",
                "supported-rpc.x=1\nsupported-rpc.x=1\n", "supported-rpc.x=a b\n",
                "supported-rpc.../x=1\n", "supported-rpc.\u{1B}[0m=1\n", "vmexec=1\ninternal=1\n",
                String(repeating: "x", count: 300_000),
            ])
        func hostileFeatures(_ input: String) throws {
            let outcome = try lab.call("qubes.FeaturesRequest", to: "dom0", input: input)
            #expect(outcome.status == 1)
            #expect(outcome.text == "")
            for name in ["internal", "guivm", "supported-rpc.x", "vmexec"] {
                #expect(try feature(name, of: "work").hasPrefix("2|QubesFeatureNotFoundError|"))
            }
        }

        @Test("A picture arrives as pixels, and a file that is none does not")
        func image() throws {
            try lab.script("personal", "printf 'P5 2 1 255\\n\\001\\377' > ~/picture.pgm")
                .expectSuccess()
            let expected = Array("2 1\n".utf8) + [1, 1, 1, 255, 255, 255, 255, 255]
            let file = try lab.call("qubes.GetImageRGBA", input: "/home/user/picture.pgm\n")
            #expect(file.output == expected)
            #expect(file.status == 0)
            let sent = try lab.run(
                "work",
                [
                    "bash", "-c",
                    "printf 'pgm:-\\nP5 2 1 255\\n\\001\\377' | qrexec-client-vm personal qubes.GetImageRGBA",
                ])
            #expect(sent.output == expected)
            for input in [
                "/etc/passwd\n", "/dev/zero\n", "msl:-\n<image/>", "-\nP6 9999999 9999999 1 ",
            ] {
                let outcome = try lab.call("qubes.GetImageRGBA", input: input)
                #expect(outcome.status == 1)
                #expect(outcome.text == "")
                #expect(outcome.errors.hasPrefix("qubes.GetImageRGBA: "))
            }
        }

        @Test("What runs around a suspend is the administrator's, and its failure is told")
        func suspend() throws {
            try lab.script(
                "vault", user: Lab.administrator,
                """
                mkdir -p /etc/qubes/suspend-pre.d && cd /etc/qubes/suspend-pre.d
                printf '#!/bin/sh\\necho hook; exit 3\\n' > 10-fails; chmod 755 10-fails
                """
            ).expectSuccess()
            let outcome = try lab.run(
                "dom0",
                ["qrexec-client", "-d", "vault", "DEFAULT:QUBESRPC qubes.SuspendPreAll dom0"])
            #expect(outcome.status == 1)
            #expect(outcome.text == "")
            #expect(outcome.errors.contains("10-fails ended with status 3"))
        }
    }
}
