import QrexecPolicy

/// One request to decide, from the command line or from a line of JSON.
struct CallRequest {
    let source: String
    let target: String
    let service: String
    let requestedSource: String

    /// The service with its `+`.
    var fullService: String { service.contains("+") ? service : service + "+" }

    init(source: String, target: String, service: String, requestedSource: String = "") {
        self.source = source
        self.target = target
        self.service = service
        self.requestedSource = requestedSource
    }

    struct Malformed: Error, CustomStringConvertible {
        let description: String
    }

    /// Reads the keys `source`, `target`, `service`, `argument` and `requested_source`.
    init(json line: [UInt8]) throws(Malformed) {
        let json: JSONValue
        do throws(JSONError) {
            json = try JSONReader.read(line)
        } catch {
            throw Malformed(description: "no JSON: \(error)")
        }
        guard case .object = json else { throw Malformed(description: "no JSON object") }
        func text(_ key: String, isOptional: Bool = false) throws(Malformed) -> String {
            switch json[key] {
            case .string(let text): return text
            case nil where isOptional: return ""
            case .null where isOptional: return ""
            case nil: throw Malformed(description: "no key '\(key)'")
            default: throw Malformed(description: "'\(key)' is no string")
            }
        }
        source = try text("source")
        target = try text("target")
        service = try text("service") + text("argument", isOptional: true)
        requestedSource = try text("requested_source", isOptional: true)
    }

    func decide(_ engine: PolicyEngine) -> Decision {
        engine.decide(
            source: source, target: target, service: service, claimedSource: requestedSource)
    }
}
