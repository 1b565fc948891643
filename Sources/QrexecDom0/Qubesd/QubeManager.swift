public import QrexecProtocol

/// What dom0's programs may know about a qube (specification, section 14).
public struct QubeRecord: Sendable, Equatable {
    public enum Class: String, Sendable, CaseIterable {
        case admin = "AdminVM"
        case app = "AppVM"
        case template = "TemplateVM"
        case standalone = "StandaloneVM"
        case disposable = "DispVM"
        case remote = "RemoteVM"
    }

    public enum PowerState: String, Sendable {
        case halted = "Halted"
        /// Starting, or shutting down.
        case transient = "Transient"
        case running = "Running"
        case paused = "Paused"
    }

    /// What a qube can be marked with.
    public static let labels = [
        "red", "orange", "yellow", "green", "gray", "blue", "purple", "black",
    ]

    public var name: String
    public var type: Class
    public var label: String
    /// Lower-case, with dashes; dom0's is all zeros.
    public var uuid: String
    public var tags: [String] = []
    public var features: [String: String] = [:]
    public var isTemplateForDisposables = false
    public var defaultDisposable: String?
    public var guiQube: String?
    public var relayQube: String?
    public var transportService: String?
    /// Whom services run as when nobody says otherwise.
    public var defaultUser = "user"
    public var powerState: PowerState = .halted
    /// nil while it is halted.
    public var domainID: UInt32?
    /// Hidden from people: a disposable that waits to be used.
    public var isInternal = false

    public init(name: String, type: Class, label: String, uuid: String) {
        self.name = name
        self.type = type
        self.label = label
        self.uuid = uuid
    }

    public var icon: String {
        switch type {
        case .admin: "adminvm-\(label)"
        case .template: "templatevm-\(label)"
        case .standalone: "standalonevm-\(label)"
        case .disposable: "dispvm-\(label)"
        case .app, .remote: "appvm-\(label)"
        }
    }
}

/// Who wants what disposable.
public struct DisposableRequest: Sendable, Equatable {
    /// nil for the default of the caller.
    public var template: String?
    /// The qube that it is for.
    public var caller: String
    /// The process that asked, as the manager's system numbers it, when that is known.
    public var requester: Int32?

    public init(template: String?, caller: String, requester: Int32?) {
        self.template = template
        self.caller = caller
        self.requester = requester
    }
}

/// Who makes, starts and ends qubes: behind the socket of section 14 stand the lab, a plain Xen
/// host, or something else.
///
/// Nothing here waits: what takes time tells its end by its closure, once, on the loop of the
/// caller.
public protocol QubeManager: AnyObject {
    typealias Completion = (QubesdError?) -> Void

    /// All qubes, dom0 first.
    var qubes: [QubeRecord] { get }

    /// Starts a halted qube; done when its agent and daemon are connected.
    func start(_ name: String, completion: @escaping Completion)

    /// Asks a qube to end, and makes it end when it does not in time.
    func shutdown(_ name: String, completion: @escaping Completion)

    /// Ends a qube at once.
    func kill(_ name: String, completion: @escaping Completion)

    /// Makes a disposable that is not started yet, or hands out one that waits to be used.
    ///
    /// - Parameter completion: told the new qube.
    func createDisposable(
        _ request: DisposableRequest,
        completion: @escaping (Result<QubeRecord, QubesdError>) -> Void)

    /// Makes a disposable that waits to be used, beside those that the manager keeps by itself.
    ///
    /// - Parameters:
    ///   - template: dom0 stands for its default.
    ///   - completion: told the new qube.
    func preloadDisposable(
        of template: String, completion: @escaping (Result<QubeRecord, QubesdError>) -> Void)

    /// Sets a feature of a qube.
    func setFeature(_ key: String, to value: String, of name: String) throws(QubesdError)

    /// Called with each event from now on; set by the server.
    var onEvent: ((QubeEvent) -> Void)? { get set }
}

extension QubeManager {
    /// A manager that only keeps as many as its configuration says.
    public func preloadDisposable(
        of template: String, completion: @escaping (Result<QubeRecord, QubesdError>) -> Void
    ) {
        completion(
            .failure(.failed("this manager preloads by itself: set preload-dispvm-max")))
    }

    /// A manager whose qubes' features come from a file alone.
    public func setFeature(
        _ key: String, to value: String, of name: String
    ) throws(QubesdError) {
        throw QubesdError(
            type: "QubesNoSuchMethodError",
            message: "The features of \(name) are set in this manager's configuration")
    }
}
