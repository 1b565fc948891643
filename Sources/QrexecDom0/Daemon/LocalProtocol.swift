import QrexecProtocol

/// The messages of dom0's local sockets between daemons and their clients (specification, section
/// 6): HELLO both ways, then one command.
enum LocalProtocol {
    static func checkLength(_ type: MessageType, _ length: Int) throws(ProtocolError) {
        let allowed: ClosedRange<Int>
        switch type {
        case .hello: allowed = Hello.size...Hello.size
        case .execCommandLine, .justExec, .serviceConnect:
            allowed = ConnectParameters.size...Limits.localBody
        default: throw .unexpectedType(type, state: "on a local socket")
        }
        guard allowed.contains(length) else {
            throw .badLength(
                type, length: length, expected: "\(allowed.lowerBound) to \(allowed.upperBound)")
        }
    }

    /// A local peer of R4.2 speaks exactly 3, one of R4.3 at least 3.
    static func check(_ hello: Hello) throws(ProtocolError) {
        guard hello.version >= ProtocolVersion.localSocket.rawValue else {
            throw .unsupportedVersion(hello.version)
        }
    }
}
