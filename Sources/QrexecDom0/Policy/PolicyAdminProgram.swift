import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// The services policy.List, Get, Replace, Remove, GetFiles, policy.include.* (section 13.4) and
/// policy.RegisterArgument (13.5): one program, started by the name of the service.
public enum PolicyAdminProgram {
    /// The names it serves.
    public static let services = [
        "policy.List", "policy.Get", "policy.Replace", "policy.Remove", "policy.GetFiles",
        "policy.include.List", "policy.include.Get", "policy.include.Replace",
        "policy.include.Remove", "policy.RegisterArgument",
    ]

    static let help = """
        usage: qubes-policy-admin

        Serves policy.List, policy.Get, policy.Replace, policy.Remove, policy.GetFiles,
        policy.include.* and policy.RegisterArgument: started by qrexec in dom0, under the name of
        the service or with QREXEC_SERVICE_FULL_NAME=SERVICE+ARGUMENT. People use qubes-policy.

        QREXEC_POLICY_DIR and QREXEC_POLICY_ADMIN_LOG name another policy directory and log.

        Exit status: 0 done, 1 refused, 2 failed.

        """

    /// Serves one call.
    ///
    /// - Parameter arguments: the program's name first, then the service's argument if it has one.
    public static func run(arguments: [String]) -> Int32 {
        switch arguments.dropFirst().first {
        case "-h", "--help": return say(Array(help.utf8))
        case "--version": return say(Array((Version.line("qubes-policy-admin") + "\n").utf8))
        default: break
        }
        let name = arguments[0].split(separator: "/").last.map(String.init) ?? ""
        var call =
            CurrentProcess.variable("QREXEC_SERVICE_FULL_NAME")
            ?? name + (arguments.count > 1 ? "+" + arguments[1] : "")
        if !call.contains("+") { call += "+" }
        let plus = call.firstIndex(of: "+")!
        let service = String(call[..<plus])
        let argument = String(call[call.index(after: plus)...])
        do throws(PolicyAdmin.Failure) {
            let input = try readInput()
            let output = try serve(service, argument, input)
            record(service, argument, "done")
            return say(output)
        } catch {
            record(service, argument, error.description)
            try? Descriptor.writeAll(Array((error.description + "\n").utf8), to: 2)
            return error.kind == .failed && service != "policy.RegisterArgument" ? 2 : 1
        }
    }

    private static func say(_ bytes: [UInt8]) -> Int32 {
        do throws(Errno) {
            try Descriptor.writeAll(bytes, to: 1)
            return 0
        } catch {
            return 2
        }
    }

    private static func readInput() throws(PolicyAdmin.Failure) -> [UInt8] {
        do throws(Errno) {
            return try Descriptor.duplicate(of: 0).readAll(limit: PolicyLimits.fileSize + 128)
        } catch .fileTooLarge {
            throw PolicyAdmin.Failure(
                .protocolError, "expected at most \(PolicyLimits.fileSize) bytes")
        } catch {
            throw PolicyAdmin.Failure(.failed, "standard input: \(error)")
        }
    }

    private static func serve(
        _ service: String, _ argument: String, _ input: [UInt8]
    ) throws(PolicyAdmin.Failure) -> [UInt8] {
        if service == "policy.RegisterArgument" { return try register(argument, input) }
        let isInclude = service.hasPrefix("policy.include.")
        let admin = PolicyAdmin()
        switch service {
        case "policy.List", "policy.include.List":
            try expectNothing(argument, "argument")
            try expectNothing(input, "input")
            return lines(try admin.list(includes: isInclude))
        case "policy.GetFiles":
            try expectNothing(input, "input")
            return lines(try admin.files(about: argument))
        case "policy.Get", "policy.include.Get":
            try expectNothing(input, "input")
            let file = try PolicyAdmin.File(argument, isInclude: isInclude)
            let contents = try admin.get(file)
            return Array((PolicyAdmin.token(contents) + "\n").utf8) + contents
        case "policy.Replace", "policy.include.Replace":
            let file = try PolicyAdmin.File(argument, isInclude: isInclude)
            guard let end = input.firstIndex(of: 0x0A) else {
                throw PolicyAdmin.Failure(.protocolError, "expected a line with the token first")
            }
            let token = String(decoding: input[..<end], as: UTF8.self)
            try admin.replace(file, with: Array(input[(end + 1)...]), token: token)
            return []
        case "policy.Remove", "policy.include.Remove":
            let file = try PolicyAdmin.File(argument, isInclude: isInclude)
            try admin.remove(file, token: String(decoding: input, as: UTF8.self))
            return []
        default:
            throw PolicyAdmin.Failure(.protocolError, "there is no service '\(service)' here")
        }
    }

    private static func lines(_ names: [String]) -> [UInt8] {
        Array(names.map { $0 + "\n" }.joined().utf8)
    }

    private static func expectNothing(
        _ value: some Collection, _ what: String
    ) throws(PolicyAdmin.Failure) {
        if !value.isEmpty { throw PolicyAdmin.Failure(.protocolError, "expected no \(what)") }
    }

    /// Lets a frontend call one service with one argument of the backend that asks for it. Nothing
    /// is ever written to the output: it goes to the backend.
    private static func register(
        _ service: String, _ input: [UInt8]
    ) throws(PolicyAdmin.Failure) -> [UInt8] {
        let backend = CurrentProcess.variable("QREXEC_REMOTE_DOMAIN") ?? ""
        let frontend = CurrentProcess.variable("QREXEC_REQUESTED_TARGET") ?? ""
        guard CurrentProcess.variable("QREXEC_REQUESTED_TARGET_TYPE") == "name" else {
            throw PolicyAdmin.Failure(.protocolError, "expected a qube as target")
        }
        guard !service.isEmpty, service.utf8.allSatisfy(isServiceCharacter) else {
            throw PolicyAdmin.Failure(.protocolError, "expected a service as argument")
        }
        guard (1...64).contains(input.count), input.allSatisfy(isServiceCharacter) else {
            throw PolicyAdmin.Failure(
                .protocolError, "expected 1 to 64 letters, digits, '-', '.' and '_' as input")
        }
        for name in [backend, frontend] {
            guard (1...63).contains(name.utf8.count), name.utf8.allSatisfy(isServiceCharacter)
            else { throw PolicyAdmin.Failure(.protocolError, "expected the names of two qubes") }
        }
        try PolicyAdmin().register(
            service: service, argument: String(decoding: input, as: UTF8.self),
            frontend: frontend, backend: backend)
        return []
    }

    /// One line in the log of the service; that it cannot be written changes nothing.
    private static func record(_ service: String, _ argument: String, _ outcome: String) {
        let isRegister = service == "policy.RegisterArgument"
        let path =
            isRegister
            ? "/var/log/qubes/policy-register.log"
            : CurrentProcess.variable("QREXEC_POLICY_ADMIN_LOG")
                ?? "/var/log/qubes/policy-admin.log"
        let caller = CurrentProcess.variable("QREXEC_REMOTE_DOMAIN") ?? "dom0"
        let line =
            "\(Timestamp.now) \(LogText.line(service + "+" + argument)) "
            + "from \(LogText.line(caller)): \(LogText.line(outcome))\n"
        try? FileChange.append(Array(line.utf8), to: path, mode: 0o664)
    }
}
