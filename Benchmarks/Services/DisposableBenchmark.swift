import BenchmarkReport
import Foundation

/// Opening a file in a disposable against a plain call, by turns in the same lab.
struct DisposableBenchmark {
    let lab: BenchmarkLab

    /// One template has disposables ready, the other has none.
    static let configuration = """
        [qubes.default-dvm]
        features = { preload-dispvm-max = "2", preload-dispvm-delay = "0" }
        [qubes.plain-dvm]
        template_for_dispvms = true
        autostart = false
        """

    private static let rounds = 21
    private static let stages = ["policy", "create", "start", "connect", "total"]

    func run(_ report: inout Report) throws {
        try prepare()
        var plain: [Double] = []
        var opened: [Double] = []
        // The first round only warms everything.
        for round in 0...Self.rounds {
            let call = try time(
                "read b < <(qrexec-client-vm personal bench.Now < /dev/null)")
            try waitForPool()
            let open = try time("qvm-open-in-dvm note; read b < note")
            if round == 0 { continue }
            plain.append(call)
            opened.append(open)
        }
        report.add("plain call, until the service runs", median(plain), "ms")
        report.add(
            "open in a preloaded disposable, until the opener runs", median(opened), "ms",
            atMost: 1.3, ratio: median(opened) / median(plain), against: "a plain call")
        try stagesOfMaking(&report)
    }

    private func prepare() throws {
        let now = "#!/bin/bash\necho $EPOCHREALTIME"
        for qube in ["personal", "plain-dvm"] {
            try lab.install("\(now)\n", in: qube, at: "usr/local/etc/qubes-rpc/bench.Now")
        }
        try lab.install("\(now) > \"$1\"\n", in: "default-dvm", at: "home/user/opener")
        try lab.install(
            "opener = /home/user/opener\n", in: "default-dvm",
            at: "home/user/.config/qubes/open.conf")
        try lab.install(
            "* * work @anyvm allow\n* * work @dispvm allow\n* * work @dispvm:plain-dvm allow\n",
            in: "dom0", at: "etc/qubes/policy.d/10-bench.policy")
        try lab.run("work", "echo text > note")
        // What is ready was made before these files.
        try lab.run("work", "qvm-open-in-dvm note")
    }

    /// Milliseconds from the caller's start to the moment that the other side wrote down.
    private func time(_ command: String) throws -> Double {
        let outcome = try lab.run("work", "a=$EPOCHREALTIME; \(command); echo $a $b")
        let moments = outcome.output.split(separator: "\n").last?.split(separator: " ")
            .compactMap { Double($0) }
        guard let moments, moments.count == 2 else {
            throw BenchmarkLab.Failure(description: "no times in: \(outcome.output)")
        }
        return (moments[1] - moments[0]) * 1000
    }

    private func waitForPool() throws {
        for _ in 0..<500 {
            let rows = try lab.command(["status"]).output.split(separator: "\n")
            if rows.count(where: { $0.hasPrefix("disp") && $0.contains("Pooled") }) == 2 {
                // Both are connected; what their start has cost the machine is over soon.
                usleep(300_000)
                return
            }
            usleep(20_000)
        }
        throw BenchmarkLab.Failure(description: "no disposables get ready")
    }

    /// What the daemon's own account of each call says.
    private func stagesOfMaking(_ report: inout Report) throws {
        for _ in 0..<Self.rounds {
            try lab.run("work", "qrexec-client-vm @dispvm:plain-dvm bench.Now < /dev/null")
        }
        let lines = try lab.command(["log"]).output.split(separator: "\n").filter {
            $0.contains("service=bench.Now") && $0.contains("create=")
        }
        for stage in Self.stages {
            let values = lines.compactMap { line in
                line.split(separator: " ").first { $0.hasPrefix("\(stage)=") }
                    .flatMap { Double($0.dropFirst(stage.count + 1)) }
            }
            report.add("call in a disposable made from nothing: \(stage)", median(values), "ms")
        }
    }
}
