/// A qube's request for a service, whatever message it came in: TRIGGER_SERVICE of version 2, 3
/// or 4 (5.2). Everything in it is a peer's word.
public struct ServiceRequest: Sendable, Equatable {
    /// The source that a relay claims to speak for; empty without one. Version 4 only.
    public var claimedSource: String
    public var target: String
    /// As it came: 32 bytes.
    public var identField: [UInt8]
    /// `service[+argument]`.
    public var service: String

    public init(claimedSource: String, target: String, ident: RequestIdent, service: String) {
        self.claimedSource = claimedSource
        self.target = target
        self.identField = ident.field
        self.service = service
    }

    /// Size of the fields in front of the service name, versions 3 and 4.
    static func fixedPart(_ type: MessageType) -> Int {
        type == .triggerService4 ? 160 : 96
    }

    static let version2Size = 128

    /// Whether a body of this length may be read at all; the length is checked before the body is
    /// waited for (QSB-089: strictly more than the fixed part).
    public static func checkLength(_ length: Int, of type: MessageType) throws(ProtocolError) {
        if type == .triggerService {
            guard length == version2Size else {
                throw .badLength(type, length: length, expected: "128")
            }
            return
        }
        let fixed = fixedPart(type)
        guard length > fixed, length <= fixed + Limits.serviceDescriptor else {
            throw .badLength(
                type, length: length,
                expected: "\(fixed + 1) to \(fixed + Limits.serviceDescriptor)")
        }
    }

    /// Takes a message apart. A wrong length ends the channel; wrong texts refuse the request:
    /// see `RequestRefusal`.
    public static func parse(
        _ type: MessageType, _ body: [UInt8]
    ) throws(ProtocolError) -> Result<ServiceRequest, RequestRefusal> {
        try checkLength(body.count, of: type)
        var reader = ByteReader(body)
        let source: ArraySlice<UInt8>
        let target: ArraySlice<UInt8>
        let ident: ArraySlice<UInt8>
        let service: ArraySlice<UInt8>
        switch type {
        case .triggerService:
            source = []
            let name = reader.take(64)
            target = reader.take(32)
            ident = reader.take(RequestIdent.size)
            // The field is NUL-filled: only the name and its NUL count.
            service = name.firstIndex(of: 0).map { name[...$0] } ?? name
        case .triggerService3, .triggerService4:
            source = type == .triggerService4 ? reader.take(64) : []
            target = reader.take(64)
            ident = reader.take(RequestIdent.size)
            service = reader.takeAll()
        default:
            throw .unexpectedType(type, state: "as a request")
        }
        let identField = Array(ident)
        do throws(ProtocolError) {
            _ = try RequestIdent(field: ident)
            guard service.last == 0 else {
                throw .badText(field: "service", reason: "has no terminating NUL")
            }
            let name = service.dropLast()
            if name.isEmpty { throw .badText(field: "service", reason: "is empty") }
            if name.first == 0x2B { throw .badText(field: "service", reason: "has no name") }
            if name.contains(0) { throw .badText(field: "service", reason: "has a NUL inside") }
            let plain = name.firstIndex(of: 0x2B).map { name[..<$0] } ?? name
            if plain.count > Limits.serviceName {
                throw .badText(field: "service", reason: "has a name of over 255 bytes")
            }
            return .success(
                ServiceRequest(
                    claimedSource: firstText(source), target: firstText(target),
                    identField: identField, service: asciiText(name)))
        } catch {
            return .failure(RequestRefusal(identField: identField, reason: error))
        }
    }

    /// The body with another ident, which an agent puts in the place of whatever its local client
    /// sent. The length must have been checked.
    public static func replacingIdent(
        _ type: MessageType, _ body: [UInt8], with ident: RequestIdent
    ) -> [UInt8] {
        let start = (type == .triggerService ? version2Size : fixedPart(type)) - RequestIdent.size
        var result = body
        result.replaceSubrange(start..<(start + RequestIdent.size), with: ident.field)
        return result
    }

    private init(claimedSource: String, target: String, identField: [UInt8], service: String) {
        self.claimedSource = claimedSource
        self.target = target
        self.identField = identField
        self.service = service
    }

    /// Text up to the first NUL, or the whole field without its last byte.
    private static func firstText(_ field: ArraySlice<UInt8>) -> String {
        if field.isEmpty { return "" }
        let end = field.firstIndex(of: 0) ?? field.endIndex - 1
        return asciiText(field[..<end])
    }

    /// nil for an ident that no well-behaved agent sends.
    public var ident: RequestIdent? { try? RequestIdent(field: identField[...]) }

    /// The request with each character that is not allowed replaced by `_` (section 6).
    public var sanitised: ServiceRequest {
        ServiceRequest(
            claimedSource: Names.sanitised(claimedSource, Names.isTargetCharacter),
            target: Names.sanitised(target, Names.isTargetCharacter),
            identField: identField,
            service: Names.sanitised(service, Names.isServiceCharacter))
    }

    /// The body of a message of that type; what a version 2 field cannot hold is cut.
    public func body(_ type: MessageType) -> [UInt8] {
        var bytes: [UInt8] = []
        if type == .triggerService {
            bytes.append(service, field: Limits.serviceVersion2 + 1)
            bytes.append(target, field: Limits.targetNameVersion2 + 1)
            bytes.append(contentsOf: identField)
            return bytes
        }
        if type == .triggerService4 { bytes.append(claimedSource, field: Limits.targetName + 1) }
        bytes.append(target, field: Limits.targetName + 1)
        bytes.append(contentsOf: identField)
        bytes.append(contentsOf: service.utf8)
        bytes.append(0)
        return bytes
    }
}

/// A request that is answered with SERVICE_REFUSED without a question to the policy.
public struct RequestRefusal: Error, Sendable, Equatable {
    public let identField: [UInt8]
    public let reason: ProtocolError
}
