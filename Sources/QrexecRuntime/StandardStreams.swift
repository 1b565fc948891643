import Glibc
public import LinuxSystem
import SystemPackage

/// The program's own standard streams, made usable in an event loop without changing the mode that
/// other programs on the same terminal or pipe rely on.
public struct StandardStreams: ~Copyable {
    /// Streams whose mode is changed; they still lead to where they led.
    private var switched: [Int32] = []

    public init() {}

    /// A non-blocking descriptor for stream 0, 1 or 2. The stream itself then leads to /dev/null,
    /// so that closing the descriptor is what its other end sees; a closed stream is an empty one.
    public mutating func take(_ number: Int32, writing: Bool) throws(Errno) -> Descriptor {
        guard let kind = try? Descriptor.kind(of: number) else { return try Self.null(writing) }
        var wasSwitched = false
        let taken = try Descriptor.privateNonblocking(
            number, of: kind, writing: writing, switched: &wasSwitched)
        if wasSwitched {
            switched.append(number)
        } else if number != 2, kind != .terminal {
            try Self.null(writing).replace(number)
        }
        return taken
    }

    private static func null(_ writing: Bool) throws(Errno) -> Descriptor {
        try Descriptor.open("/dev/null", writing ? O_WRONLY : O_RDONLY)
    }

    deinit { restore() }

    /// Gives the shared streams their blocking mode back, also when what was taken is closed. Done
    /// with the end of the value too, which a program that exits may not reach.
    public func restore() {
        for number in switched { Descriptor.setNonblocking(number, false) }
    }
}
