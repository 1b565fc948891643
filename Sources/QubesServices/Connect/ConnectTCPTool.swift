import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `qvm-connect-tcp`: a port of this qube's loopback address leads to a port of another qube, by its
/// `qubes.ConnectTCP`. Exit status: 0 when the port is served (in the background), 1 when it cannot
/// be, 2 for a wrong command line.
public enum ConnectTCPTool {
    /// `[LOCALPORT]:[QUBE]:PORT`.
    struct Route: Equatable {
        let localPort: UInt16
        let target: String
        let port: UInt16

        /// Why a text is no route.
        struct Invalid: Error, Equatable { let reason: String }

        init(_ text: String) throws(Invalid) {
            let first = text.firstIndex(of: ":")
            let last = text.lastIndex(of: ":")
            guard let first, let last, first < last else {
                throw Invalid(reason: "expected [LOCALPORT]:[QUBE]:PORT")
            }
            port = try Self.port(text[text.index(after: last)...], "PORT")
            let local = text[..<first]
            localPort = local.isEmpty ? port : try Self.port(local, "LOCALPORT")
            // A qube's name may hold a colon: uuid:…, @dispvm:….
            let name = text[text.index(after: first)..<last]
            target = name.isEmpty ? "@default" : String(name)
            if target.hasPrefix("-") { throw Invalid(reason: "\(target) is no qube") }
        }

        private static func port(_ text: Substring, _ what: String) throws(Invalid) -> UInt16 {
            guard let first = text.utf8.first, (0x31...0x39).contains(first),
                text.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(text)
            else { throw Invalid(reason: "\(what) is no number from 1 to 65535") }
            return port
        }
    }

    private static let help = """
        usage: qvm-connect-tcp [--foreground] [LOCALPORT]:[QUBE]:PORT

        Lets programs of this qube reach a TCP port of another one: each connection to
        localhost:LOCALPORT is a call of the service qubes.ConnectTCP+PORT in QUBE. LOCALPORT is
        PORT unless given; without QUBE the policy chooses it. Returns when connections are taken,
        and serves in the background.

          -f, --foreground   serve in the foreground, until Ctrl-C
          -h, --help         this text
          --version          the version

        Example: qvm-connect-tcp 8080:web:80, where dom0's policy has
        "qubes.ConnectTCP +80 this-qube web allow".

        Exit status: 0, 1 when the port cannot be served, 2 for a wrong command line.

        """

    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qvm-connect-tcp")
        var inForeground = false
        var listener: Int32?
        var shown: String?
        let parser = OptionParser([
            .init(short: "f", long: "foreground"), .init(long: "listener", takesValue: true),
            .init(short: "h", long: "help"), .init(long: "version"),
        ])
        do throws(OptionParser.UsageError) {
            let operands = try parser.parse(Array(arguments.dropFirst())) { name, value in
                switch name {
                case "foreground": inForeground = true
                // Ours: the port that the one who started this in the background listens on.
                case "listener": listener = Int32(value)
                case "help": shown = help
                default: shown = Version.line(program) + "\n"
                }
            }
            if let shown {
                say(shown)
                return 0
            }
            guard operands.count == 1 else {
                throw OptionParser.UsageError("expected [LOCALPORT]:[QUBE]:PORT")
            }
            let route: Route
            do throws(Route.Invalid) { route = try Route(operands[0]) } catch {
                throw OptionParser.UsageError(error.reason)
            }
            return serve(
                route, operands[0], inherited: listener, inForeground: inForeground, program)
        } catch {
            complain(program, "\(error.description); see --help")
            return 2
        }
    }

    private static func serve(
        _ route: Route, _ text: String, inherited: Int32?, inForeground: Bool, _ program: String
    ) -> Int32 {
        do throws(FileProblem) {
            // Before anybody is told that it works.
            let client = try Programs.client()
            if let inherited, inherited > 2 {
                return forward(Descriptor(taking: inherited), route, client, program)
            }
            let socket = try listen(route)
            say(
                "Binding TCP '\(route.target):\(route.port)' to 'localhost:\(route.localPort)'...\n"
            )
            if inForeground { return forward(socket, route, client, program) }
            return serveInBackground(socket, text, program)
        } catch {
            complain(program, error.line)
            return 1
        }
    }

    private static func listen(_ route: Route) throws(FileProblem) -> Descriptor {
        do throws(Errno) {
            return try TCPSocket.listen(loopbackPort: route.localPort)
        } catch {
            var text = error.message
            if error == .permissionDenied { text += "; ports below 1024 are for root" }
            if error == .addressInUse { text += "; choose another LOCALPORT" }
            throw FileProblem(Array("localhost:\(route.localPort)".utf8), text)
        }
    }

    private static func forward(
        _ socket: consuming Descriptor, _ route: Route, _ client: String, _ program: String
    ) -> Int32 {
        do throws(Errno) {
            let forwarder = try TCPForwarder(
                listener: socket, target: route.target, port: route.port, client: client,
                reporter: program)
            try forwarder.run()
            return 0
        } catch {
            complain(program, error.message)
            return 1
        }
    }

    /// The same program again, in a session of its own and away from this terminal's input.
    private static func serveInBackground(
        _ socket: borrowing Descriptor, _ route: String, _ program: String
    ) -> Int32 {
        do throws(Errno) {
            let null = try Descriptor.open("/dev/null", O_RDWR)
            let own = Programs.own("qvm-connect-tcp")
            var request = SpawnRequest(
                path: own[0], arguments: own + ["--listener=3", route],
                environment: CurrentProcess.environment)
            // Who waits for the end of our output must not wait for that of the port.
            let errors = TerminalDevice.isTerminal(2) ? 2 : null.number
            request.descriptors = [null.number, null.number, errors, socket.number]
            request.newSession = true
            _ = try ChildProcess.spawn(request)
            return 0
        } catch {
            complain(program, "cannot serve in the background: \(error.message)")
            return 1
        }
    }
}
