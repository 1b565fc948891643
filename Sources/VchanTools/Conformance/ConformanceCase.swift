import Vchan

/// One promise of a vchan, as what its two ends do. Every back end, and every two that can meet,
/// must keep all of them.
public struct ConformanceCase: Sendable, CustomStringConvertible {
    typealias Part = @Sendable (ConformanceSide) throws -> Void

    public let name: String
    /// The side that ends by a crash, if any.
    public let crashing: ConformanceSide.Role?
    /// One of many sizes: a run may take a part of them.
    let isOfMany: Bool
    /// One side does harm to the memory, which it must share with the other.
    public let needsRings: Bool
    private let server: Part
    private let client: Part

    init(
        _ name: String, crashing: ConformanceSide.Role? = nil, isOfMany: Bool = false,
        needsRings: Bool = false, server: @escaping Part, client: @escaping Part
    ) {
        self.name = name
        self.isOfMany = isOfMany
        self.needsRings = needsRings
        self.crashing = crashing
        self.server = server
        self.client = client
    }

    public var description: String { name }

    /// Runs one side; the other one runs at the same time, in another thread, process or domain.
    ///
    /// - Throws: `ConformanceFailure` with what was promised and what came.
    public func run(_ side: ConformanceSide) throws(ConformanceFailure) {
        do {
            try side.role == .server ? server(side) : client(side)
        } catch let failure as ConformanceFailure {
            throw ConformanceFailure("\(name), \(side.role.rawValue): \(failure.description)")
        } catch {
            throw ConformanceFailure("\(name), \(side.role.rawValue): \(error)")
        }
    }

    /// How much a run does.
    public struct Extent: Sendable {
        /// Bytes each way of a streaming case at most.
        public var bytes: Int
        /// Closes of the case that looks for lost data.
        public var closes: Int

        public init(bytes: Int, closes: Int) {
            self.bytes = bytes
            self.closes = closes
        }
    }

    /// All cases, in the same order everywhere.
    public static func all(_ extent: Extent) -> [ConformanceCase] {
        streams(extent) + frames() + closes(extent) + crashes() + [pingPong(), limits()]
            + hostile()
    }

    static let ringSizes: [RingSize] = (10...20).map { RingSize(atLeast: 1 << $0)! }
}
