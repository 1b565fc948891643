import LinuxSystem
import QrexecRuntime
import SystemPackage
import Vchan

/// `vchan-cat`: standard input and output joined to a vchan.
public enum VchanCat {
    static let usage = """
        Usage: vchan-cat --listen|--connect --domain PEER --port P [OPTIONS]

        Joins standard input and output to a vchan between this domain and PEER. At the end of its
        input it tells the peer so, and goes on until the peer has ended too; over the C library,
        which has no way to say so, it closes.

          --listen            offer the vchan and wait for PEER
          --connect           join the one that PEER offers, or will offer
          --domain PEER       number of the other domain
          --port P            number of the vchan between the two
          --ring BYTES        size of each ring of a listener (default 65536, up to 1048576)
          --timeout SECONDS   wait no longer than this for the peer to join (default: for ever)
          --transport NAME    xen, local, libxenvchan or socket (default: that of this machine)
          --own-domain N      with --state, or with socket: act for this domain
          --state DIR         state directory of a lab, or any directory that both ends share
          -h, --help
          --version

        Environment: QREXEC_VCHAN (transport); VCHAN_DOMAIN, VCHAN_SOCKET_DIR (socket).

        Exit status: 0 both directions ended in order; 1 something was or may have been lost, or
        another error; 2 wrong usage.
        """

    private struct Settings {
        var end = EndOptions()
        var listen: Bool?
        var timeout: UInt64?
    }

    private static let program = Program(
        "vchan-cat", usage: usage,
        EndOptions.options + [
            .init(long: "listen"), .init(long: "connect"),
            .init(long: "timeout", takesValue: true),
        ], wrongUsage: 2)

    public static func run(arguments: [String]) -> Int32 {
        program.run(arguments, Settings(), option: set, operands: check) { settings in
            CurrentProcess.ignoreBrokenPipes()
            do throws(CatError) {
                try join(settings)
                return 0
            } catch {
                Terminal.printError("\(program.name): \(error.description)")
                return 1
            }
        }
    }

    private static func set(
        _ settings: inout Settings, _ name: String, _ value: String
    ) throws(OptionParser.UsageError) {
        if try settings.end.take(name, value) { return }
        if name == "timeout" {
            guard let seconds = UInt64(value), seconds < 1 << 31 else {
                throw .init("--timeout \(value): expected a number of seconds")
            }
            settings.timeout = seconds
            return
        }
        guard settings.listen == nil else { throw .init("--listen or --connect, once") }
        settings.listen = name == "listen"
    }

    private static func check(
        _ settings: inout Settings, _ operands: [String]
    ) throws(OptionParser.UsageError) {
        try Program.none(&settings, operands)
        if settings.listen == nil { throw .init("--listen or --connect is missing") }
        if settings.end.peer == nil { throw .init("--domain is missing") }
        if settings.end.port == nil { throw .init("--port is missing") }
        try settings.end.check()
    }

    private static func join(_ settings: Settings) throws(CatError) {
        var streams: CatStreams
        do throws(Errno) { streams = try CatStreams() } catch {
            throw .streams(error)
        }
        let lost: String?
        do throws(VchanError) {
            var channel = try open(settings)
            lost = try streams.pump(&channel)
            channel.close()
        } catch {
            streams.restore()
            // Nothing but the wait for the peer has a deadline.
            throw error == .timedOut ? .nobodyJoined(seconds: settings.timeout!) : .vchan(error)
        }
        streams.restore()
        if let lost { throw .lost(lost) }
    }

    private static func open(_ settings: Settings) throws(VchanError) -> Channel {
        let (end, transport) = (settings.end, try settings.end.transport())
        var channel =
            settings.listen!
            ? try transport.listen(
                for: end.peer!, port: end.port!, read: end.ring, write: end.ring)
            : try transport.connect(to: end.peer!, port: end.port!)
        let deadline = settings.timeout.map { CurrentProcess.now + $0 * 1_000_000_000 }
        try channel.waitUntilOpen(deadline: deadline)
        return channel
    }
}

enum CatError: Error, CustomStringConvertible {
    case streams(Errno)
    case vchan(VchanError)
    case lost(String)
    case nobodyJoined(seconds: UInt64)

    var description: String {
        switch self {
        case .streams(let error): "standard streams: \(error)"
        case .vchan(let error): error.description
        case .lost(let what): what
        case .nobodyJoined(let seconds): "the peer has not joined within \(seconds) s"
        }
    }
}
