import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `vchan-fuzz`: channels against a peer that does anything.
public enum FuzzProgram {
    static let usage = """
        Usage: vchan-fuzz [OPTIONS]

        Drives one end of many channels while the other end does anything at all to the shared
        memory. The same seed is the same run.

          --seed N      seed of the first run (default 1)
          --runs N      channels (default 10000)
          --steps N     calls of each side on one channel (default 300)
          --seconds N   stop after this time, whatever is left
          -h, --help
          --version

        Exit status: 0 nothing found; 1 something found, with the seed; 2 wrong usage.
        """

    public static func run(arguments: [String]) -> Int32 {
        var (seed, runs, steps, seconds) = (UInt64(1), UInt64(10_000), UInt64(300), UInt64(1 << 30))
        var shown: String?
        do throws(OptionParser.UsageError) {
            let parser = OptionParser(
                ["seed", "runs", "steps", "seconds"].map { .init(long: $0, takesValue: true) }
                    + [.init(short: "h", long: "help"), .init(long: "version")])
            var taken: [(String, String)] = []
            let operands = try parser.parse(Array(arguments.dropFirst())) { taken.append(($0, $1)) }
            if let extra = operands.first { throw .init("unexpected argument '\(extra)'") }
            for (name, value) in taken {
                switch name {
                case "seed": seed = try number(name, value)
                case "runs": runs = try number(name, value)
                case "steps": steps = try number(name, value)
                case "seconds": seconds = try number(name, value)
                case "help": shown = usage
                default: shown = Version.line("vchan-fuzz")
                }
            }
        } catch {
            Terminal.printError("vchan-fuzz: \(error.description)\nTry 'vchan-fuzz --help'.")
            return 2
        }
        if let shown {
            Terminal.print(shown)
            return 0
        }
        return fuzz(seeds: seed..<seed + runs, steps: Int(steps), seconds: seconds)
    }

    private static func number(
        _ name: String, _ value: String
    ) throws(OptionParser.UsageError) -> UInt64 {
        guard let number = UInt64(value), number < 1 << 40 else {
            throw .init("--\(name) \(value): expected a number")
        }
        return number
    }

    private static func fuzz(seeds: Range<UInt64>, steps: Int, seconds: UInt64) -> Int32 {
        let end = CurrentProcess.now + seconds * 1_000_000_000
        var done = 0
        do {
            let directory = try TemporaryDirectory(prefix: "/tmp/vchan-fuzz")
            for seed in seeds where CurrentProcess.now < end {
                try Fuzzer.run(seed: seed, steps: steps, directory: directory.path)
                done += 1
            }
        } catch {
            Terminal.print("FOUND  \(error)\nRepeat it with: vchan-fuzz --runs 1 --seed N")
            return 1
        }
        Terminal.print("\(done) channels from seed \(seeds.lowerBound) on, nothing found")
        return done == 0 ? 1 : 0
    }
}
