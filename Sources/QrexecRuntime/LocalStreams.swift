import LinuxSystem
import SystemPackage

/// The local ends of a call's data, for a call that is joined to this program's own streams. Shared
/// streams get their mode back at the end of this value at the latest.
struct LocalStreams: ~Copyable {
    /// An end, and whether it is read and written as a socket.
    struct End: ~Copyable {
        let descriptor: Descriptor
        let isSocket: Bool

        init(_ descriptor: consuming Descriptor) throws(Errno) {
            isSocket = try Descriptor.kind(of: descriptor.number) == .socket
            self.descriptor = descriptor
        }
    }

    private var shared: StandardStreams
    /// Nil for a local program, which has ends of its own, and for a call that only starts.
    var input: End?
    var output: End?
    var error: End?

    init(_ options: CallerSession.Options) throws(Errno) {
        shared = StandardStreams()
        if options.startsOnly || options.localProgram != nil {
            input = nil
            output = nil
        } else if options.usesInputSocket {
            let socket = try Descriptor.duplicate(of: 0)
            output = try End(socket.duplicate())
            input = try End(socket)
        } else {
            output = try End(shared.take(1, writing: true))
            input = try End(shared.take(0, writing: false))
        }
        error = try End(shared.take(2, writing: true))
    }

    /// Gives shared streams their mode back.
    func restore() { shared.restore() }
}
