/// What dom0 knows about one qube, as far as policy cares (section 14).
public struct Qube: Sendable, Equatable {
    public var name: String
    /// 36 characters; nil on releases that have none.
    public var uuid: String?
    public var type: String
    public var tags: [String]
    /// Whether disposables may be made of it.
    public var isDisposableTemplate: Bool
    public var defaultDisposable: String?
    public var icon: String
    public var guiQube: String?
    public var isRunning: Bool
    /// Hidden from people who choose a target.
    public var isInternal: Bool
    public var relay: String?
    public var transportService: String?

    public init(
        name: String, uuid: String? = nil, type: String, tags: [String] = [],
        isDisposableTemplate: Bool = false, defaultDisposable: String? = nil, icon: String = "",
        guiQube: String? = nil, isRunning: Bool = false, isInternal: Bool = false,
        relay: String? = nil, transportService: String? = nil
    ) {
        self.name = name
        self.uuid = uuid
        self.type = type
        self.tags = tags
        self.isDisposableTemplate = isDisposableTemplate
        self.defaultDisposable = defaultDisposable
        self.icon = icon
        self.guiQube = guiQube
        self.isRunning = isRunning
        self.isInternal = isInternal
        self.relay = relay
        self.transportService = transportService
    }
}

/// All qubes at one moment.
public struct SystemInformation: Sendable {
    public let qubes: [Qube]
    /// Names and `uuid:UUID`, each with the number of its qube.
    private var keys = SymbolTable()
    private var owners: [Int32] = []
    /// The number of dom0, or -1.
    let adminQube: Int32
    let relays: [Int32]
    let defaultDisposables: [Int32]

    /// At most this many qubes; the rest would be an error of qubesd.
    public static let maximumQubes = 65_536

    public init(_ qubes: [Qube]) {
        precondition(qubes.count <= Self.maximumQubes, "too many qubes")
        self.qubes = qubes
        var keys = SymbolTable()
        var owners: [Int32] = []
        for (index, qube) in qubes.enumerated() {
            for key in [qube.name] + (qube.uuid.map { ["uuid:" + $0] } ?? []) {
                if keys.find(key) >= 0 { continue }
                _ = keys.intern(key)
                owners.append(Int32(index))
            }
        }
        func find(_ name: String?) -> Int32 {
            guard let name else { return -1 }
            let key = keys.find(name)
            return key < 0 ? -1 : owners[Int(key)]
        }
        adminQube = find("dom0")
        relays = qubes.map { find($0.relay) }
        defaultDisposables = qubes.map { find($0.defaultDisposable) }
        self.keys = keys
        self.owners = owners
    }

    /// The number of the qube of that name or `uuid:UUID`; -1 when there is none.
    func find(_ name: Span<UInt8>) -> Int32 {
        let key = keys.find(name)
        return key < 0 ? -1 : owners[Int(key)]
    }

    /// The place in `qubes` of the qube of that name or `uuid:UUID`.
    public func index(of name: String) -> Int? {
        let index = find(Array(name.utf8).span)
        return index < 0 ? nil : Int(index)
    }

    public func qube(named name: String) -> Qube? { index(of: name).map { qubes[$0] } }
}

/// Why an answer of qubesd is no system information.
public struct SystemInformationError: Error, Sendable, CustomStringConvertible {
    public let description: String
}

extension SystemInformation {
    /// Reads what internal.GetSystemInfo answers (section 14). Fields that a release does not have
    /// count as null. A qube with a name that no qube can have is left out: it does not exist.
    public static func read(_ bytes: [UInt8]) throws(SystemInformationError) -> SystemInformation {
        let json: JSONValue
        do throws(JSONError) {
            json = try JSONReader.read(bytes)
        } catch {
            throw SystemInformationError(description: "system information is no JSON: \(error)")
        }
        return try read(json)
    }

    public static func read(_ json: JSONValue) throws(SystemInformationError) -> SystemInformation {
        guard case .object(let members)? = json["domains"] else {
            throw SystemInformationError(
                description: "system information has no object 'domains'")
        }
        if members.count > maximumQubes {
            throw SystemInformationError(
                description: "system information has more than \(maximumQubes) qubes")
        }
        var qubes: [Qube] = []
        var uuids: Set<String> = []
        for (name, value) in members where isPlain(name) && name.utf8.count <= 63 {
            let qube = try read(name, value)
            if let uuid = qube.uuid, !uuids.insert(uuid).inserted {
                throw SystemInformationError(description: "two qubes have the uuid \(uuid)")
            }
            qubes.append(qube)
        }
        return SystemInformation(qubes)
    }

    private static func read(
        _ name: String, _ value: JSONValue
    ) throws(SystemInformationError) -> Qube {
        guard case .object = value, let type = value["type"]?.string else {
            throw SystemInformationError(description: "qube '\(name)' has no type")
        }
        let isInternal: Bool =
            switch value["internal"] {
            case .string(let text): !text.isEmpty
            case .bool(let flag): flag
            default: false
            }
        return Qube(
            name: name,
            uuid: value["uuid"]?.string.flatMap { $0.utf8.count == 36 && isPlain($0) ? $0 : nil },
            type: type,
            tags: (value["tags"]?.array ?? []).compactMap(\.string),
            isDisposableTemplate: value["template_for_dispvms"]?.bool ?? false,
            defaultDisposable: value["default_dispvm"]?.string,
            icon: value["icon"]?.string ?? "",
            guiQube: value["guivm"]?.string,
            isRunning: value["power_state"]?.string == "Running",
            isInternal: isInternal,
            relay: value["relayvm"]?.string,
            transportService: value["transport_rpc"]?.string.flatMap { isPlain($0) ? $0 : nil })
    }

    /// Whether a text can stand in an answer: the characters of names and services.
    private static func isPlain(_ text: String) -> Bool {
        !text.isEmpty && text.utf8.count <= 255 && text.utf8.allSatisfy(isArgumentByte)
    }
}
