import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// `qrexec-client-vm`: calls a service from a qube (specification, section 9).
public enum ClientVM {
    static let usage = """
        Usage: qrexec-client-vm [OPTIONS] TARGET SERVICE[+ARGUMENT] [PROGRAM [ARGUMENTS…]]

        Calls SERVICE in the qube TARGET (a name, @default, @dispvm, @adminvm, …), if dom0's
        policy allows it, and connects it to standard input and output, or to PROGRAM's.

          -t, --filter-escape-chars-stdout     replace what a terminal cannot be trusted with
          -T, --filter-escape-chars-stderr     (default on a terminal)
          --no-filter-escape-chars-stdout
          --no-filter-escape-chars-stderr
          --buffer-size=BYTES     ring size of the data channel each way (default 65536)
          -a, --agent-socket=PATH socket of the agent (default /var/run/qubes/qrexec-agent)
          -p, --prefix-data=TEXT  send TEXT before standard input
          --use-stdin-socket      standard input is a socket, to be used both ways
          -s, --source-qube=NAME  call for this remote qube (relays only)
          -h, --help
          --version

        Exit status: that of the service; 125 it could not be started, 126 refused by policy,
        127 no such service, 255 the connection was lost; 1 other failures, 2 wrong usage.
        """

    private struct Arguments {
        var session = CallerSession.Options()
        var bufferSize = Limits.dataRing
        var agentSocket = CallRequest.standardSocket
        var source = ""
        var target = ""
        var service = ""
        /// nil: as the streams ask for.
        var filterOutput: Bool?
        var filterError: Bool?
    }

    private static let program = Program(
        "qrexec-client-vm", usage: usage,
        [
            .init(short: "t", long: "filter-escape-chars-stdout"),
            .init(short: "T", long: "filter-escape-chars-stderr"),
            .init(long: "no-filter-escape-chars-stdout"),
            .init(long: "no-filter-escape-chars-stderr"),
            .init(long: "buffer-size", takesValue: true),
            .init(short: "a", long: "agent-socket", takesValue: true),
            .init(short: "p", long: "prefix-data", takesValue: true),
            .init(long: "use-stdin-socket"),
            .init(short: "s", long: "source-qube", takesValue: true),
        ], stopsAtOperand: true, wrongUsage: 2)

    public static func run(arguments: [String]) -> Int32 {
        program.run(arguments, Arguments(), option: set, operands: setCall, body: call)
    }

    // MARK: Arguments

    private static func set(
        _ result: inout Arguments, _ name: String, _ value: String
    ) throws(OptionParser.UsageError) {
        switch name {
        case "filter-escape-chars-stdout": result.filterOutput = true
        case "filter-escape-chars-stderr": result.filterError = true
        case "no-filter-escape-chars-stdout": result.filterOutput = false
        case "no-filter-escape-chars-stderr": result.filterError = false
        case "buffer-size": result.bufferSize = try number(value)
        case "agent-socket": result.agentSocket = value
        case "prefix-data": result.session.prefix = Array(value.utf8)
        case "use-stdin-socket": result.session.usesInputSocket = true
        default: result.source = value
        }
    }

    private static func setCall(
        _ result: inout Arguments, _ operands: [String]
    ) throws(OptionParser.UsageError) {
        guard operands.count >= 2 else {
            throw OptionParser.UsageError("TARGET and SERVICE are needed")
        }
        // The old spelling of keywords.
        var target = Array(operands[0].utf8)
        for index in target.indices where target[index] == UInt8(ascii: "$") {
            target[index] = UInt8(ascii: "@")
        }
        result.target = String(decoding: target, as: UTF8.self)
        result.service = operands[1]
        guard !result.service.isEmpty, !result.service.hasPrefix("+") else {
            throw OptionParser.UsageError("the service has no name")
        }
        if operands.count > 2 {
            if result.session.usesInputSocket {
                throw OptionParser.UsageError("--use-stdin-socket excludes a local program")
            }
            result.session.localProgram = localProgram(Array(operands[2...]))
        }
        result.session.passesError = CurrentProcess.variable("PASS_LOCAL_STDERR") != nil
        let hasProgram = result.session.localProgram != nil
        result.session.filtersOutput = result.filterOutput ?? (!hasProgram && isatty(1) == 1)
        result.session.filtersError = result.filterError ?? (isatty(2) == 1)
    }

    private static func number(_ text: String) throws(OptionParser.UsageError) -> Int {
        let value: Int?
        if text.hasPrefix("0x") || text.hasPrefix("0X") {
            value = Int(text.dropFirst(2), radix: 16)
        } else if text.hasPrefix("0"), text.count > 1 {
            value = Int(text.dropFirst(), radix: 8)
        } else {
            value = Int(text)
        }
        guard let value, value >= 0, RingSize(atLeast: value) != nil else {
            throw OptionParser.UsageError("--buffer-size: expected 0 to 1048576 bytes")
        }
        return value
    }

    private static func localProgram(_ command: [String]) -> SpawnRequest {
        let name = command[0].split(separator: "/").last.map(String.init) ?? command[0]
        return SpawnRequest(
            path: command[0], arguments: [name] + command.dropFirst(),
            environment: CurrentProcess.environment.filter {
                !$0.hasPrefix("SAVED_FD_") && !$0.hasPrefix("QREXEC_AGENT_PID=")
            } + ["QREXEC_AGENT_PID=\(CurrentProcess.id)"])
    }

    // MARK: The call

    private static func call(_ arguments: Arguments) -> Int32 {
        var log = Log(program: "qrexec-client-vm")
        log.stampsTime = false
        CurrentProcess.ignoreBrokenPipes()
        do {
            var request = CallRequest(target: arguments.target, service: arguments.service)
            request.source = arguments.source
            request.agentSocket = arguments.agentSocket
            let call = AgentCall(try request.connect(), try EventLoop(), log)
            guard
                let status = try call.run(
                    request, ringSize: arguments.bufferSize, options: arguments.session)
            else {
                Terminal.printError("Request refused")
                return CallStatus.refused
            }
            return status & 0xFF
        } catch let error as CallRequest.Failure {
            Terminal.printError("qrexec-client-vm: \(error.reason)")
        } catch {
            Terminal.printError("qrexec-client-vm: \(error)")
        }
        return 1
    }
}
