import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// `qrexec-client`: calls from dom0 (specification, section 7).
public enum ClientProgram {
    static let usage = """
        Usage: qrexec-client -d QUBE [OPTIONS] USER:COMMAND

        Runs COMMAND as USER (DEFAULT: the qube's default user) in QUBE and connects it to standard
        input and output. `USER:QUBESRPC SERVICE[+ARGUMENT] SOURCE` calls a service. A halted qube
        is started. QUBE is a name, a domain number, uuid:UUID, or dom0.

          -d QUBE
          -l PROGRAM           connect PROGRAM (a shell command, or QUBESRPC …) instead
          -e                   only start the command: return when it has started
          -E, --no-exit-code   end with status 0 whatever the command's
          -t, -T               replace what a terminal cannot be trusted with in output, errors
          -w SECONDS           for the qube to connect (default 10, 0: no limit)
          -k                   kill the qube at the end
          -c IDENT,SOURCE,DOMID  connect the request IDENT of the qube SOURCE, whose domain number
                               is DOMID, instead of standard input and output
          -W                   with -c: wait for the end of the call
          -p, --prefix-data=TEXT  send TEXT before standard input
          --use-stdin-socket   standard input is a socket, to be used both ways
          --socket-dir=DIR     where the daemons' sockets are (default /var/run/qubes)
          -h, --help
          --version

        Exit status: that of the command; 125 it could not be started, 126 refused, 127 no such
        service, 255 the connection was lost; 1 wrong usage (0 for an unknown option), 2 a repeated
        or impossible --use-stdin-socket or -p. With -c to a qube: 0, or 137 when that failed.
        """

    struct Arguments {
        var target = ""
        var command: [UInt8] = []
        var session = CallerSession.Options()
        var localProgram: String?
        var startsOnly = false
        var ignoresStatus = false
        var killsTarget = false
        /// A qube's request that is to be connected.
        var waiting: WaitingRequest?
        var waitsForEnd = false
        var socketDirectory = "/var/run/qubes"
        var hasPrefix = false
        /// What is wrong with --prefix-data or --use-stdin-socket: an exit status of its own.
        var streamProblem: String?

        var isForDom0: Bool { target == "0" || AllowedCall.isDom0(target) }
    }

    private static let program = Program(
        "qrexec-client", usage: usage,
        [
            .init(short: "d", takesValue: true), .init(short: "l", takesValue: true),
            .init(short: "e"), .init(short: "E", long: "no-exit-code"),
            .init(short: "t"), .init(short: "T"), .init(short: "w", takesValue: true),
            .init(short: "k"), .init(short: "c", takesValue: true), .init(short: "W"),
            .init(short: "p", long: "prefix-data", takesValue: true),
            .init(long: "use-stdin-socket"), .init(long: "socket-dir", takesValue: true),
        ], stopsAtOperand: true,
        // As the reference does, whose callers may rely on it (section 7).
        unknownOption: 0)

    public static func run(arguments: [String]) -> Int32 {
        var start = Arguments()
        start.session.connectTimeout = TimeLimits.dom0Connect
        start.session.unconnectedStatus = CallStatus.problem
        return program.run(arguments, start, option: set, operands: setCommand, body: call)
    }

    private static func call(_ parsed: Arguments) -> Int32 {
        if let problem = parsed.streamProblem {
            Terminal.printError("\(program.name): \(problem)")
            return 2
        }
        CurrentProcess.ignoreBrokenPipes()
        var log = Log(program: program.name)
        log.stampsTime = false
        do {
            let status: Int32
            if parsed.waiting != nil {
                status = try WaitingCall(parsed, log: log).run()
            } else if parsed.isForDom0 {
                status = try InnerCall.run(parsed)
            } else {
                status = try ClientCall(parsed, log: log).run()
            }
            return parsed.ignoresStatus ? 0 : status & 0xFF
        } catch let failure as StartFailure {
            Terminal.printError("\(program.name): \(failure.reason)")
            return failure.status
        } catch {
            Terminal.printError("\(program.name): \(error)")
            return CallStatus.problem
        }
    }

    private static func setCommand(
        _ result: inout Arguments, _ operands: [String]
    ) throws(OptionParser.UsageError) {
        guard !result.target.isEmpty, !result.target.contains("/") else {
            throw OptionParser.UsageError("-d QUBE is needed")
        }
        guard operands.count == 1 else {
            throw OptionParser.UsageError("one USER:COMMAND is needed, in one argument")
        }
        result.command = Array(operands[0].utf8)
        let hasUser = result.waiting == nil || !result.isForDom0
        guard !hasUser || result.command.contains(0x3A) else {
            throw OptionParser.UsageError("'\(operands[0])' names no user: expected USER:COMMAND")
        }
        let excluding = [result.startsOnly, result.localProgram != nil, result.waiting != nil]
        guard excluding.count(where: { $0 }) <= 1 else {
            throw OptionParser.UsageError("only one of -e, -l and -c can be given")
        }
        if result.localProgram != nil, result.session.usesInputSocket {
            throw OptionParser.UsageError("-l excludes --use-stdin-socket")
        }
        result.session.startsOnly = result.startsOnly
    }

    private static func set(
        _ result: inout Arguments, _ name: String, _ value: String
    ) throws(OptionParser.UsageError) {
        switch name {
        case "d": result.target = value
        case "l": result.localProgram = value
        case "e": result.startsOnly = true
        case "no-exit-code": result.ignoresStatus = true
        case "t": result.session.filtersOutput = true
        case "T": result.session.filtersError = true
        case "w":
            guard let limit = UInt64(value), limit < 1 << 30 else {
                throw OptionParser.UsageError("-w: '\(value)' is no number of seconds")
            }
            result.session.connectTimeout = limit == 0 ? nil : limit
        case "k": result.killsTarget = true
        case "c": result.waiting = try WaitingRequest(value)
        case "W": result.waitsForEnd = true
        case "prefix-data":
            if result.hasPrefix { result.streamProblem = "--prefix-data is given twice" }
            result.hasPrefix = true
            result.session.prefix = Array(value.utf8)
        case "use-stdin-socket":
            if result.session.usesInputSocket {
                result.streamProblem = "--use-stdin-socket is given twice"
            } else if (try? Descriptor.kind(of: 0)) != .socket {
                result.streamProblem = "--use-stdin-socket: standard input is no socket"
            }
            result.session.usesInputSocket = true
        default: result.socketDirectory = value
        }
    }
}
