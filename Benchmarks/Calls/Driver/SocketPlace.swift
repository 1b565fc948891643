import Foundation
import LinuxSystem
import QrexecRuntime

/// Two qubes' agents and daemons and the policy service over the socket transport, without a lab: the
/// other qubes are names in what a stand-in for qubesd tells. Gone when it is let go.
final class SocketPlace: CallPlace {
    let caller = "qube-1"
    let target = "qube-2"
    let client: String
    private let directory: String
    private let settings: Settings
    private let user: UserIdentity?
    /// The account that services run as.
    private let account: String
    private var programs: [Background] = []

    /// - Parameters:
    ///   - rules: of the policy, those that match last.
    ///   - qubes: in the answer of qubesd.
    init(_ settings: Settings, rules: Int, qubes: Int) throws {
        self.settings = settings
        user = settings.ordinaryUser
        let uid = user?.uid ?? CurrentProcess.effectiveUser
        account = UserAccount.numbered(uid)?.name ?? "\(uid)"
        client = "\(settings.programs)/qrexec-client-vm"
        directory = "\(settings.place)/calls-sockets-\(CurrentProcess.id)-\(rules)-\(qubes)"
        try FileManager.default.createDirectory(
            atPath: "\(directory)/policy.d", withIntermediateDirectories: true)
        try writeFiles(rules)
        try start(qubes)
    }

    deinit {
        // These outlive their agents for a while.
        let left = (try? processes())?.named("qrexec-agent-data").map(\.pid) ?? []
        // The last ones first: nobody loses what it speaks to.
        while !programs.isEmpty { programs.removeLast() }
        for pid in left { CurrentProcess.signal(pid, SIGTERM) }
        try? FileManager.default.removeItem(atPath: directory)
    }

    private func writeFiles(_ rules: Int) throws {
        let files = FileManager.default
        let last = [
            "bench.Refused * \(caller) @anyvm deny",
            "* * \(caller) \(target) allow user=\(account)",
        ]
        let others = (0..<rules - last.count).map { "bench.Other\($0) * qube-1 qube-2 deny" }
        try ((others + last).joined(separator: "\n") + "\n").write(
            toFile: "\(directory)/policy.d/20-bench.policy", atomically: true, encoding: .utf8)
        try files.createDirectory(
            atPath: "\(directory)/services", withIntermediateDirectories: true)
        let services = ["True": "/bin/true", "Socket": "\(directory)/bench.socket"]
        for (name, target) in services {
            try files.createSymbolicLink(
                atPath: "\(directory)/services/bench.\(name)", withDestinationPath: target)
        }
        if let user {
            for path in [directory, "\(directory)/policy.d"] {
                try files.setAttributes(
                    [.ownerAccountID: user.uid, .groupOwnerAccountID: user.gid],
                    ofItemAtPath: path)
            }
        }
    }

    private func variables(_ domain: Int) -> [String] {
        [
            "QREXEC_VCHAN=socket", "VCHAN_DOMAIN=\(domain)", "VCHAN_SOCKET_DIR=\(directory)",
            "QREXEC_POLICY_SOCKET=\(directory)/policy.sock",
            "QUBESD_SOCKET=\(directory)/qubesd.sock",
            "QUBESD_INTERNAL_SOCKET=\(directory)/qubesd.internal.sock",
            "QREXEC_SERVICE_PATH=\(directory)/services",
            "QUBES_RPC_CONFIG_PATH=\(directory)/config",
            "CALLS_CLIENT=\(client)", "CALLS_AGENT=\(directory)/agent.\(domain)",
        ]
    }

    private func run(_ domain: Int, _ command: [String], until socket: String) throws {
        programs.append(
            try Background(
                command, user: user, variables: variables(domain), log: "\(directory)/log"))
        let path = "\(directory)/\(socket)"
        for _ in 0..<1000 {
            if FileManager.default.fileExists(atPath: path) { return }
            usleep(10_000)
        }
        throw Problem("'\(command[0])' made no \(path); see \(directory)/log")
    }

    private func start(_ qubes: Int) throws {
        let bin = settings.programs
        try run(
            0, ["\(settings.built)/policy-bench", "--qubesd", directory, String(qubes)],
            until: "qubesd.internal.sock")
        try run(
            0,
            [
                "\(bin)/qrexec-policy-daemon", "--policy-path", "\(directory)/policy.d",
                "--socket-path", "\(directory)/policy.sock",
                "--eval-socket-path", "\(directory)/eval.sock",
                "--gui-socket-path", "\(directory)/gui.sock",
                "--dispatcher-socket", "\(directory)/dispatcher.sock",
            ], until: "policy.sock")
        try run(2, [settings.load, "serve", "\(directory)/bench.socket"], until: "bench.socket")
        for domain in [1, 2] {
            programs.append(
                try Background(
                    [
                        "\(bin)/qrexec-daemon", "--socket-dir=\(directory)", "--direct",
                        "--uuid=00000000-0000-0000-0000-00000000000\(domain)", "--",
                        "\(domain)", "qube-\(domain)", account,
                    ], user: user, variables: variables(0), log: "\(directory)/log"))
            try run(
                domain,
                [
                    "\(bin)/qrexec-agent", "--agent-socket=\(directory)/agent.\(domain)",
                    "--no-fork-server",
                ], until: "agent.\(domain)")
        }
        // The first calls pay for what is read once.
        _ = try load(["calls", "1", "20", target, "bench.True", "0"])
    }

    func load(_ arguments: [String]) throws -> [[String: Double]] {
        BenchLab.numbers(
            try Background.output(
                [settings.load] + arguments, user: user, variables: variables(1)))
    }

    func processes() throws -> LabProcesses { try LabProcesses(below: programs.map(\.pid)) }

    func processCount() -> Double? { nil }
}
