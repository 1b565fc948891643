/// What an agent may be told on its control channel (5.2): looked at before a body is waited for.
public enum MessagesFromDom0 {
    public static func checkLength(_ type: MessageType, _ length: Int) throws(ProtocolError) {
        let allowed: ClosedRange<Int>
        switch type {
        case .hello: allowed = Hello.size...Hello.size
        case .execCommandLine, .justExec:
            allowed = (ConnectParameters.size + 1)...Limits.localBody
        case .serviceConnect: allowed = ServiceConnect.size...ServiceConnect.size
        case .serviceRefused: allowed = RequestIdent.size...RequestIdent.size
        default: throw .unexpectedType(type, state: "from dom0")
        }
        guard allowed.contains(length) else {
            throw .badLength(
                type, length: length, expected: "\(allowed.lowerBound) to \(allowed.upperBound)")
        }
    }
}
