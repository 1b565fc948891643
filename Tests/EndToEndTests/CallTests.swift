import Foundation
import Testing

extension EndToEnd {
    /// Issue: the first call between two qubes.
    @Suite("A call between two qubes", .serialized)
    struct Calls {
        let lab: Lab

        init() throws { lab = try Lab.shared.get() }

        @Test("Data arrives in both directions")
        func bothWays() throws {
            try lab.install("test.Upper", "tr a-z A-Z")
            let outcome = try lab.call("test.Upper", input: "hello\n")
            #expect(outcome.status == 0)
            #expect(outcome.text == "HELLO\n")
            #expect(outcome.errors == "")
        }

        @Test("What policy denies is refused with 126, and the service does not run")
        func denied() throws {
            try lab.install("test.Denied", "touch /tmp/ran")
            try lab.setPolicy("10-denied", "test.Denied * @anyvm @anyvm deny\n")
            let outcome = try lab.call("test.Denied")
            #expect(outcome.status == 126)
            #expect(outcome.errors.contains("Request refused"))
            #expect(try lab.script("personal", "test -e /tmp/ran").status == 1)
        }

        @Test(
            "A pipe that other programs write to as well waits for them as before",
            arguments: [("test.Shared", 0), ("test.Nowhere", 127), ("test.SharedDenied", 126)])
        func sharedOutput(_ service: String, _ status: Int32) throws {
            try lab.install("test.Shared", "echo answer")
            try lab.setPolicy(
                "10-shared", "test.SharedDenied * @anyvm @anyvm deny\n")
            // A pipe that nobody can open anew, so that its mode is changed for the call.
            let outcome = try lab.script(
                "work",
                """
                {
                    chmod 0 /proc/self/fd/1
                    qrexec-client-vm personal \(service) < /dev/null
                    echo "status: $?"
                    grep flags: /proc/$BASHPID/fdinfo/1
                } | cat
                """)
            #expect(outcome.text.contains("status: \(status)\nflags:\t01\n"), "\(outcome.text)")
        }

        @Test("A service that is not there is 127")
        func notFound() throws { #expect(try lab.call("test.Nowhere").status == 127) }

        @Test(
            "A service that cannot be used is 125",
            arguments: ["chmod 644", "mkdir", "ln -s /dev/tcp/nowhere/x", "ln -s /etc/passwd/x"])
        func unusable(_ how: String) throws {
            let root = try lab.qube("personal").root
            let path = "\(root)/usr/local/etc/qubes-rpc/test.Unusable"
            defer { try? FileManager.default.removeItem(atPath: path) }
            if how.hasPrefix("chmod") { try lab.install("test.Unusable", "true") }
            let made = try Program(["/bin/sh", "-c", "\(how) \(path)"], input: []).finish()
            #expect(made.status == 0, "\(made.errors)")
            #expect(try lab.call("test.Unusable").status == 125)
        }

        @Test(
            "The argument chooses the service and is its first word",
            arguments: [
                ("test.Arg", "general:0:"), ("test.Arg+", "general:0:"),
                ("test.Arg+a+b", "general:1:a+b"), ("test.Arg+only", "special:1:only"),
            ])
        func argument(_ service: String, _ expected: String) throws {
            try lab.install("test.Arg", #"echo "general:$#:$1""#)
            try lab.install("test.Arg+only", #"echo "special:$#:$1""#)
            #expect(try lab.call(service).text == expected + "\n")
        }

        @Test("A service learns who calls what, and nothing that the caller made up")
        func environment() throws {
            try lab.install("test.Env", "env | grep ^QREXEC | sort; echo $USER $HOME $PWD")
            let outcome = try lab.run(
                "work",
                ["env", "QREXEC_REMOTE_DOMAIN=dom0", "qrexec-client-vm", "personal", "test.Env+x"])
            let lines = outcome.text.split(separator: "\n").filter {
                !$0.hasPrefix("QREXEC_AGENT_PID=")
            }
            #expect(
                lines == [
                    "QREXEC_REMOTE_DOMAIN=work", "QREXEC_REQUESTED_TARGET_TYPE=",
                    "QREXEC_SERVICE_ARGUMENT=x", "QREXEC_SERVICE_FULL_NAME=test.Env+x",
                    "user /home/user /home/user",
                ])
        }

        @Test("Standard error arrives apart from standard output")
        func standardError() throws {
            try lab.install("test.Err", "echo out; echo err >&2")
            let outcome = try lab.call("test.Err")
            #expect(outcome.text == "out\n")
            #expect(outcome.errors == "err\n")
        }

        @Test("A service that reads to the end of its input can still answer")
        func inputEndsFirst() throws {
            try lab.install("test.Count", "wc -c")
            #expect(try lab.call("test.Count", input: "12345").text == "5\n")
        }

        @Test("A service that ends its output early goes on reading")
        func outputEndsFirst() throws {
            try lab.install("test.Sink", "echo first; exec >&-; cat > /tmp/sunk; exit 9")
            let call = try lab.start("work", ["qrexec-client-vm", "personal", "test.Sink"])
            try call.expect("first")
            try call.write("after the end of output")
            #expect(try call.finish().status == 9)
            #expect(try lab.script("personal", "cat /tmp/sunk").text == "after the end of output")
        }

        @Test("A service that ends does not wait for its caller's input")
        func inputStaysOpen() throws {
            try lab.install("test.Quick", "echo done; exit 3")
            let call = try lab.start("work", ["qrexec-client-vm", "personal", "test.Quick"])
            let outcome = try call.wait()
            #expect(outcome.status == 3)
            #expect(outcome.text == "done\n")
        }

        @Test("A local program talks to the service; the first status that is not 0 counts")
        func localProgram() throws {
            try lab.install("test.Add", #"read a; echo $((a + 1)); exit "${1:-0}""#)
            let program = "echo 41; read sum; echo $sum >&$SAVED_FD_1; exit 5"
            let call = { (service: String) in
                try lab.run(
                    "work", ["qrexec-client-vm", "personal", service, "/bin/bash", "-c", program])
            }
            #expect(try call("test.Add").text == "42\n")
            #expect(try call("test.Add").status == 5)
            #expect(try call("test.Add+6").status == 6)
        }

        @Test("Bytes of every value arrive unchanged")
        func binary() throws {
            try lab.install("test.Echo", "cat")
            let bytes = (0..<4096).map { UInt8(truncatingIfNeeded: $0) }
            let call = try lab.start(
                "work", ["qrexec-client-vm", "personal", "test.Echo"], input: bytes)
            #expect(try call.finish().output == bytes)
        }

        @Test(
            "Clients of every protocol version are answered",
            arguments: [(0x210, [32, 32], 64), (0x212, [64, 32], 0), (0x213, [64, 64, 32], 0)])
        func triggers(_ type: Int, _ fields: [Int], _ nameLength: Int) throws {
            // Version 2 has its name first; the source of version 4 stays empty.
            let target = fields.count == 3 ? 1 : 0
            let script = """
                my ($target, $service) = @ARGV; $service .= "\\0";
                socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;
                connect($s, pack_sockaddr_un("/run/qubes/qrexec-agent")) or die;
                my @values = ("") x \(fields.count); $values[\(target)] = $target;
                my $fields = join("", map { pack("a$_", shift @values) } (\(fields.map(String.init).joined(separator: ","))));
                my $body = \(nameLength) ? pack("a\(nameLength)", $service) . $fields : $fields . $service;
                syswrite($s, pack("VV", \(type), length $body) . $body);
                my $n = sysread($s, my $answer, 100);
                print $n == 8 ? join(" ", unpack("VV", $answer)) : "bytes: $n";
                """
            // Nobody connects to these calls. The qube is one that no other test calls: a daemon that
            // starts anew begins with the same ports, where such a call still waits.
            let trigger = { (service: String) in
                try lab.run("work", ["perl", "-MSocket", "-e", script, "untrusted", service]).text
            }
            try lab.install("test.Echo", in: "untrusted", "cat")
            try lab.setPolicy("10-denied", "test.Denied * @anyvm @anyvm deny\n")
            let words = try trigger("test.Echo").split(separator: " ").compactMap { Int($0) }
            try #require(words.count == 2)
            #expect(try words[0] == lab.qube("untrusted").domid)
            #expect((513...768).contains(words[1]))
            #expect(try trigger("test.Denied") == "bytes: 0")
        }
    }
}
