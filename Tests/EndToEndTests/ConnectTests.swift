import Foundation
import Testing

extension EndToEnd {
    @Suite("TCP connections between qubes", .serialized)
    struct Connect {
        let lab: Lab

        init() throws { lab = try Lab.shared.get() }

        /// A server on the loopback address of a qube: what it does with each connection is a shell
        /// script with the connection as its input and output.
        private func serve(
            _ qube: String = "personal", port: Int, _ script: String
        ) throws -> Program {
            let server = """
                use Socket; socket(my $l, AF_INET, SOCK_STREAM, 0) or die;
                setsockopt($l, SOL_SOCKET, SO_REUSEADDR, 1);
                bind($l, pack_sockaddr_in($ARGV[0], INADDR_LOOPBACK)) or die $!;
                listen($l, 64) or die; $| = 1; $SIG{CHLD} = "IGNORE"; print "ready\\n";
                while (1) {
                    accept(my $c, $l) or next;
                    next if fork; open(STDIN, "<&", $c); open(STDOUT, ">&", $c);
                    close $c; close $l; exec("bash", "-c", $ARGV[1]);
                }
                """
            let program = try lab.start(qube, ["perl", "-e", server, "\(port)", script])
            try program.expect("ready")
            return program
        }

        /// Speaks with a port of a qube: all of the input, then the end, then what comes back.
        private func talk(_ qube: String = "work", port: Int, _ input: String) throws -> Outcome {
            let client = """
                use Socket; socket(my $s, AF_INET, SOCK_STREAM, 0) or die;
                connect($s, pack_sockaddr_in($ARGV[0], INADDR_LOOPBACK)) or die $!;
                binmode STDIN; binmode STDOUT;
                if (!fork) { while (sysread(STDIN, my $b, 65536)) { syswrite($s, $b) } shutdown($s, 1); exit }
                while (sysread($s, my $b, 65536)) { syswrite(STDOUT, $b) }
                wait;
                """
            return try lab.run(qube, ["perl", "-e", client, "\(port)"], input: input)
        }

        private func stop(_ program: Program) throws {
            program.signal(SIGTERM)
            _ = try program.finish()
        }

        @Test("A call reaches the port that its argument names")
        func service() throws {
            let server = try serve(port: 4001, "read x; echo \"got $x\"")
            var outcome = try lab.call("qubes.ConnectTCP+4001", input: "hello\n")
            #expect(outcome.text == "got hello\n", "\(outcome)")
            try stop(server)
            outcome = try lab.call("qubes.ConnectTCP+4001", input: "hello\n")
            #expect(outcome.status == 125)
            #expect(outcome.text == "")
        }

        @Test("The call ends when the server ends the connection, whatever the caller does")
        func serverEnds() throws {
            let server = try serve(port: 4002, "echo bye")
            let call = try lab.start(
                "work", ["qrexec-client-vm", "personal", "qubes.ConnectTCP+4002"])
            let outcome = try call.wait()
            #expect(outcome.text == "bye\n")
            #expect(outcome.status == 0)
            try stop(server)
        }

        @Test("Links of the forms that the specification has lead to their ports")
        func forms() throws {
            let server = try serve(port: 4003, "echo here")
            let directory = try lab.qube("personal").root + "/usr/local/etc/qubes-rpc"
            for (name, text) in [
                ("test.Fixed", "/dev/tcp/127.0.0.1/4003"), ("test.Port", "/dev/tcp/127.0.0.1"),
                ("test.Any", "/dev/tcp"),
            ] {
                try? FileManager.default.removeItem(atPath: "\(directory)/\(name)")
                try FileManager.default.createSymbolicLink(
                    atPath: "\(directory)/\(name)", withDestinationPath: text)
            }
            try lab.script(
                "personal", user: Lab.administrator,
                """
                cd /usr/local/etc/qubes/rpc-config && for s in test.Fixed test.Port test.Any; do
                    printf 'skip-service-descriptor=true\\nexit-on-service-eof=true\\n' > $s; done
                """
            ).expectSuccess()
            for service in ["test.Fixed", "test.Port+4003", "test.Any+127.0.0.1+4003"] {
                #expect(try lab.call(service).text == "here\n")
            }
            try stop(server)
        }

        @Test(
            "A caller that names no port reaches none, and is told so",
            arguments: [
                "qubes.ConnectTCP", "qubes.ConnectTCP+", "qubes.ConnectTCP+0",
                "qubes.ConnectTCP+65536", "qubes.ConnectTCP+04007", "qubes.ConnectTCP+-1",
                "qubes.ConnectTCP+http", "qubes.ConnectTCP+4007+4007", "qubes.ConnectTCP+4007-",
                "qubes.ConnectTCP+127.0.0.1+4007", "qubes.ConnectTCP+18446744073709555623",
                "qubes.UpdatesProxy+4007",
            ])
        func noPort(_ service: String) throws {
            let server = try serve(port: 4007, "echo reached")
            let outcome = try lab.call(service)
            #expect(outcome.status == 125)
            #expect(outcome.text == "")
            try stop(server)
        }

        @Test("A server that takes nothing and gives without end holds nobody else up")
        func hostileServer() throws {
            let server = try serve(port: 4008, "exec yes")
            // Takes a little of it, and then nothing more.
            let script = """
                exec 3< <(qrexec-client-vm personal qubes.ConnectTCP+4008 < <(yes no))
                head -c 6 <&3; read -r rest
                """
            let call = try lab.start("work", ["bash", "-c", script])
            try call.expect("y\ny\ny\n")
            #expect(try lab.call("qubes.VMExec+hostname").text == "personal\n")
            try lab.kill("qrexec-client-vm", in: "work")
            _ = try call.finish()
            try eventually("nothing is left") {
                try ["work", "personal"].allSatisfy { qube in
                    try !lab.processes(qube).contains { $0.command.hasPrefix("yes") }
                }
            }
            try stop(server)
        }

        @Test("The updates proxy is port 8082")
        func updates() throws {
            let server = try serve(port: 8082, "read x; echo \"proxy $x\"")
            #expect(try lab.call("qubes.UpdatesProxy", input: "GET\n").text == "proxy GET\n")
            try stop(server)
        }

        @Test("A local port leads to a port of another qube, many connections at a time")
        func forwarding() throws {
            let server = try serve(port: 4004, #"sed -u 's/.*/\U&/'"#)
            let forward = try lab.start(
                "work", ["qvm-connect-tcp", "--foreground", "4104:personal:4004"])
            try forward.expect("Binding TCP 'personal:4004' to 'localhost:4104'")
            let text = String(repeating: "all of a longer text. ", count: 20_000)
            let outcome = try talk(port: 4104, text)
            #expect(outcome.text == text.uppercased())
            let many = try (0..<20).map { number in
                try lab.start(
                    "work",
                    [
                        "bash", "-c",
                        "exec 3<>/dev/tcp/127.0.0.1/4104; echo n\(number) >&3; read x <&3; echo $x",
                    ])
            }
            for (number, program) in many.enumerated() {
                let outcome = try program.finish()
                #expect(outcome.text == "N\(number)\n", "\(outcome)")
            }
            forward.signal(SIGTERM)
            #expect(try forward.finish().status == 0)
            #expect(try talk(port: 4104, "x").status != 0)
            try stop(server)
        }

        @Test("The port is served in the background, and taken only once")
        func background() throws {
            let server = try serve(port: 4005, "cat")
            // The port's own is the default.
            let forward = try lab.run("work", ["qvm-connect-tcp", ":personal:4005"])
            #expect(forward.status == 0)
            #expect(forward.text.contains("localhost:4005"))
            #expect(try talk(port: 4005, "round").text == "round")
            let second = try lab.run("work", ["qvm-connect-tcp", ":personal:4005"])
            #expect(second.status == 1)
            #expect(second.errors.contains("choose another LOCALPORT"))
            for process in try lab.processes("work")
            where process.command.contains("qvm-connect-tcp") {
                try lab.kill(process.pid, in: "work")
            }
            try stop(server)
        }

        @Test("A connection that policy denies is closed, and the port goes on")
        func denied() throws {
            let server = try serve(port: 4006, "echo reached")
            try lab.setPolicy("10-tcp", "qubes.ConnectTCP +4006 @anyvm @anyvm deny\n")
            let forward = try lab.start(
                "work", ["qvm-connect-tcp", "--foreground", "4106:personal:4006"])
            try forward.expect("Binding")
            #expect(try talk(port: 4106, "").text == "")
            try lab.setPolicy("10-tcp", nil)
            #expect(try talk(port: 4106, "").text == "reached\n")
            forward.signal(SIGINT)
            let ended = try forward.finish()
            #expect(ended.errors.contains("refuse"))
            try stop(server)
        }

        @Test(
            "A wrong route is 2",
            arguments: ["80", "80:personal", "x:personal:80", "80:personal:0", "80:personal:65536"])
        func usage(_ route: String) throws {
            #expect(try lab.run("work", ["qvm-connect-tcp", route]).status == 2)
        }
    }
}
