import LinuxSystem
import QrexecDom0
import QrexecProtocol
import QrexecRuntime

/// `qubes-xl`: looks at, starts and ends the qubes of a plain Xen host.
public enum XLProgram {
    static let name = "qubes-xl"

    static let usage = """
        Usage: qubes-xl COMMAND [ARGUMENTS]

        Looks at, starts and ends the qubes of this Xen host; qubes-xl-manager does it.

          list [--names]        all qubes, with their states
          status QUBE…          all that is known about these
          start QUBE…           start, and wait until the agent is connected
          shutdown QUBE…        ask to shut down, and wait for the end
          kill QUBE…            end at once
          disposable [TEMPLATE] make and start a disposable, and print its name; it lives until it
                                shuts down or is killed
          events                print what happens, until Ctrl-C
          check [FILE]          look for mistakes in the configuration file

          -h, --help
          --version

        Environment: QUBESD_SOCKET (default /run/qubesd.sock).

        Exit status: 0 done, 1 failed, 64 wrong usage.
        """

    public static func run(arguments: [String]) -> Int32 {
        CurrentProcess.openClosedStreams()
        var rest = arguments.dropFirst()
        guard let command = rest.popFirst() else { return misused("what to do?") }
        let client = AdminClient(
            path: CurrentProcess.variable("QUBESD_SOCKET") ?? "/run/qubesd.sock")
        let program = XLCommands(client: client)
        do throws(HostProblem) {
            switch command {
            case "-h", "--help", "help": Terminal.print(usage)
            case "--version": Terminal.print(Version.line(name))
            case "list":
                guard rest.isEmpty || rest == ["--names"] else { return misused("list [--names]") }
                try program.list(onlyNames: !rest.isEmpty)
            case "status": return try each(rest, command, program.status)
            case "start": return try each(rest, command, program.start)
            case "shutdown": return try each(rest, command, program.shutdown)
            case "kill": return try each(rest, command, program.kill)
            case "disposable":
                guard rest.count <= 1 else { return misused("disposable [TEMPLATE]") }
                try program.disposable(rest.first)
            case "events":
                guard rest.isEmpty else { return misused("events has no arguments") }
                try program.events()
            case "check":
                guard rest.count <= 1 else { return misused("check [FILE]") }
                return ManagerProgram.run(
                    arguments: [name, "--check"] + rest.map { "--config=\($0)" })
            default: return misused("there is no command '\(command)'")
            }
            return 0
        } catch {
            Terminal.printError("\(name): \(error.reason)")
            return 1
        }
    }

    private static func misused(_ text: String) -> Int32 {
        Terminal.printError("\(name): \(text)\nTry '\(name) --help'.")
        return 64
    }

    /// Does it for all, and fails when it failed for one.
    private static func each(
        _ qubes: ArraySlice<String>, _ command: String,
        _ body: (String) throws(HostProblem) -> Void
    ) throws(HostProblem) -> Int32 {
        guard !qubes.isEmpty else { return misused("\(command) needs a qube") }
        var status: Int32 = 0
        for qube in qubes {
            do throws(HostProblem) {
                try body(qube)
            } catch {
                Terminal.printError("\(name): \(error.reason)")
                status = 1
            }
        }
        return status
    }
}

/// What the commands do.
struct XLCommands {
    let client: AdminClient

    private func ask(
        _ method: String, _ argument: String = "", of qube: String
    ) throws(HostProblem) -> String {
        switch try client.call(method, argument: argument, destination: qube) {
        case .success(let text): return text
        case .failure(let error): throw HostProblem(error.message)
        }
    }

    /// A property's value, without its type.
    private func property(_ name: String, of qube: String) throws(HostProblem) -> String {
        let text = try ask("admin.vm.property.Get", name, of: qube)
        let fields = text.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false)
        return fields.count == 3 ? String(fields[2]) : ""
    }

    private struct Line {
        var name = ""
        var type = ""
        var state = ""
        var uuid = ""
    }

    private func lines(_ destination: String) throws(HostProblem) -> [Line] {
        let text = try ask("admin.vm.List", of: destination)
        return text.split(separator: "\n").map { row in
            let fields = row.split(separator: " ")
            var line = Line(name: String(fields[0]))
            for field in fields.dropFirst() {
                let pair = field.split(separator: "=", maxSplits: 1).map(String.init)
                guard pair.count == 2 else { continue }
                switch pair[0] {
                case "class": line.type = pair[1]
                case "state": line.state = pair[1]
                case "uuid": line.uuid = pair[1]
                default: break
                }
            }
            return line
        }
    }

    func list(onlyNames: Bool) throws(HostProblem) {
        let all = try lines("dom0")
        if onlyNames { return Terminal.print(all.map(\.name).joined(separator: "\n")) }
        var rows = [["NAME", "STATE", "DOMID", "TYPE", "LABEL"]]
        for line in all {
            let number = try property("xid", of: line.name)
            rows.append([
                line.name, line.state, number == "-1" ? "-" : number, line.type,
                try property("label", of: line.name),
            ])
        }
        Terminal.print(Self.table(rows))
    }

    private static func table(_ rows: [[String]]) -> String {
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            var line = ""
            for (cell, width) in zip(row, widths) {
                line += cell + String(repeating: " ", count: width - cell.count + 2)
            }
            while line.last == " " { line.removeLast() }
            return line
        }.joined(separator: "\n")
    }

    func status(_ qube: String) throws(HostProblem) {
        // dom0 as a destination means the list of all.
        guard let line = try lines(qube).first(where: { qube == "dom0" ? $0.name == qube : true })
        else { throw HostProblem("No such domain: \(qube)") }
        let number = try property("xid", of: qube)
        let tags = try ask("admin.vm.tag.List", of: qube).split(separator: "\n")
        var text = "\(line.name): \(line.state)\n"
        let fields = [
            ("domid", number == "-1" ? "-" : number), ("type", line.type), ("uuid", line.uuid),
            ("label", try property("label", of: qube)),
            ("default_user", try property("default_user", of: qube)),
            ("default_dispvm", try property("default_dispvm", of: qube)),
            ("template_for_dispvms", try property("template_for_dispvms", of: qube)),
            ("tags", tags.joined(separator: " ")),
        ]
        for (name, value) in fields { text += "  \(name): \(value.isEmpty ? "-" : value)\n" }
        Terminal.print(String(text.dropLast()))
    }

    func start(_ qube: String) throws(HostProblem) {
        switch try client.call("admin.vm.Start", destination: qube) {
        case .success: break
        case .failure(let error) where error.type == QubesdError.notHalted(qube).type:
            Terminal.print("\(qube) runs already.")
        case .failure(let error): throw HostProblem(error.message)
        }
    }

    func shutdown(_ qube: String) throws(HostProblem) { try end(qube, "admin.vm.Shutdown") }

    func kill(_ qube: String) throws(HostProblem) { try end(qube, "admin.vm.Kill") }

    private func end(_ qube: String, _ method: String) throws(HostProblem) {
        switch try client.call(method, destination: qube) {
        case .success: break
        case .failure(let error) where error.type == QubesdError.notRunning(qube).type:
            Terminal.print("\(qube) is halted already.")
        case .failure(let error): throw HostProblem(error.message)
        }
    }

    func disposable(_ template: String?) throws(HostProblem) {
        let name = try ask("admin.vm.CreateDisposable", of: template ?? "dom0")
        try start(quietly: name)
        Terminal.print(name)
    }

    /// One of the pool runs already.
    private func start(quietly qube: String) throws(HostProblem) {
        if case .failure(let error) = try client.call("admin.vm.Start", destination: qube),
            error.type != QubesdError.notHalted(qube).type
        {
            throw HostProblem(error.message)
        }
    }

    func events() throws(HostProblem) {
        try client.follow { fields in
            var line = "\(fields[0].isEmpty ? "-" : fields[0]) \(fields[1])"
            for index in stride(from: 2, to: fields.count - 1, by: 2) {
                line += " \(fields[index])=\(fields[index + 1])"
            }
            Terminal.print(line)
        }
        throw HostProblem("the manager ended")
    }
}
