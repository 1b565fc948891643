/// Limits of the wire (specification, appendix B). Sizes are bytes.
public enum Limits {
    /// Service name without its argument.
    public static let serviceName = 255
    /// Service name with `+argument`, without NUL.
    public static let serviceDescriptor = 65000
    /// Target and claimed source in a request, without NUL.
    public static let targetName = 63
    /// Target in a version 2 request, without NUL.
    public static let targetNameVersion2 = 31
    /// Service in a version 2 request, without NUL.
    public static let serviceVersion2 = 63
    /// Payload of a data message: version 2, later versions.
    public static let dataChunkVersion2 = 4096
    public static let dataChunk = 65536
    /// Body of a control message to or from a peer that reads it in one piece out of a 4096-byte
    /// ring (5.3): every upstream implementation. Longer ones end the peer.
    public static let controlBody = 4096
    /// Body of a message on dom0's local sockets.
    public static let localBody = 65535
    /// Ring sizes: control channel, data channel (each way).
    public static let controlRing = 4096
    public static let dataRing = 65536
    /// Port of the control channel.
    public static let controlPort: UInt32 = 512
    /// Ports of data channels: 513..<769.
    public static let firstDataPort: UInt32 = 513
    public static let dataPorts = 256
    /// Requests that wait for a policy decision, a daemon.
    public static let pendingRequests = 256
    /// Connections tracked by an agent, clients of a daemon.
    public static let connections = 256
    /// The policy service's answer.
    public static let policyAnswer = 4095
}

/// Seconds that each party waits for the other (5.4, appendix B).
public enum TimeLimits {
    /// Caller and executor in a qube: data channel connected.
    public static let qubeConnect: UInt64 = 120
    /// `qrexec-client` in dom0: data channel connected.
    public static let dom0Connect: UInt64 = 10
    /// dom0 as executor: data channel connected.
    public static let dom0Execute: UInt64 = 5
    /// A daemon's start: agent connected.
    public static let daemonStart: UInt64 = 60
}

/// Exit statuses of a call that did not run (section 10).
public enum CallStatus {
    /// Any problem to start the service.
    public static let problem: Int32 = 125
    /// Refused by policy, or too many calls.
    public static let refused: Int32 = 126
    /// No such service.
    public static let notFound: Int32 = 127
    /// The channel closed before the exit status came.
    public static let closedEarly: Int32 = 255
}
