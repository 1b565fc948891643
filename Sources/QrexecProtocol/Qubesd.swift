/// Why qubesd refuses: the names of the exceptions are part of the protocol.
public struct QubesdError: Error, Sendable, Equatable {
    /// Class name of the exception.
    public let type: String
    public let message: String

    public init(type: String, message: String) {
        self.type = type
        self.message = message
    }

    public static func noSuchQube(_ name: String) -> QubesdError {
        QubesdError(type: "QubesVMNotFoundError", message: "No such domain: \(name)")
    }
    public static func notHalted(_ name: String) -> QubesdError {
        QubesdError(type: "QubesVMNotHaltedError", message: "Domain is not powered off: \(name)")
    }
    public static func notRunning(_ name: String) -> QubesdError {
        QubesdError(type: "QubesVMNotRunningError", message: "Domain is powered off: \(name)")
    }
    public static func failed(_ message: String) -> QubesdError {
        QubesdError(type: "QubesVMError", message: message)
    }
    public static func protocolError(_ message: String) -> QubesdError {
        QubesdError(type: "ProtocolError", message: message)
    }
    public static func notAllowed(_ message: String) -> QubesdError {
        QubesdError(type: "PermissionDenied", message: message)
    }
}

/// Something that happened to a qube, for those who listen to `admin.Events`.
public struct QubeEvent: Sendable, Equatable {
    /// The qube's name; empty when the event is about the system.
    public var subject: String
    public var name: String
    public var details: [(key: String, value: String)]

    public init(
        subject: String, name: String, details: [(key: String, value: String)] = []
    ) {
        self.subject = subject
        self.name = name
        self.details = details
    }

    public static func == (left: QubeEvent, right: QubeEvent) -> Bool {
        left.subject == right.subject && left.name == right.name
            && left.details.elementsEqual(right.details, by: ==)
    }
}
