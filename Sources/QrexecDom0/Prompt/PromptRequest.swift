import QrexecPolicy

/// What policy.Ask is asked (section 13.3), checked: nothing in it can be more than the name of a
/// qube or a service, so it can be shown as it is.
public struct PromptRequest: Sendable, Equatable {
    public let source: String
    public let service: String
    /// With its `+`.
    public let argument: String
    /// What may be chosen, `@dispvm:QUBE` for a new disposable; at least one.
    public let targets: [String]
    /// The target that is preselected.
    public let preselected: String?
    /// What is wrong with the default target that was asked for; people are told.
    public let warning: String?
    /// Icons by source and target.
    public let icons: [String: String]

    /// Targets of one request.
    static let maximumTargets = 10_000
    /// Bytes of a request.
    static let maximumSize = 4 << 20

    public struct Malformed: Error, Sendable, Equatable, CustomStringConvertible {
        public let description: String
    }

    public init(_ bytes: [UInt8]) throws(Malformed) {
        let json = try Self.object(bytes)
        source = try Self.text(json, "source", Self.isName)
        service = try Self.text(json, "service", Self.isService)
        argument = try Self.text(json, "argument") { text in
            text.hasPrefix("+") && text.utf8.allSatisfy(isArgumentCharacter)
        }
        guard let values = json["targets"]?.array, (1...Self.maximumTargets).contains(values.count)
        else { throw Malformed(description: "'targets' is no list of qubes") }
        var targets: [String] = []
        for value in values {
            guard let target = value.string, Self.isTarget(target), !targets.contains(target)
            else { throw Malformed(description: "'targets' has something that is no qube") }
            targets.append(target)
        }
        self.targets = targets
        let wanted = json["default_target"]?.string ?? ""
        if wanted.isEmpty {
            preselected = nil
            warning = nil
        } else if wanted == source {
            preselected = nil
            warning = "The default target is the calling qube itself."
        } else if targets.contains(wanted) {
            preselected = wanted
            warning = nil
        } else {
            preselected = nil
            warning = "The default target is not among those that may be chosen."
        }
        var icons: [String: String] = [:]
        if case .object(let members)? = json["icons"] {
            for (name, value) in members {
                guard let icon = value.string, Self.isService(icon) else { continue }
                icons[name] = icon
            }
        }
        self.icons = icons
    }

    static func object(_ bytes: [UInt8]) throws(Malformed) -> JSONValue {
        let json: JSONValue
        do throws(JSONError) {
            json = try JSONReader.read(bytes)
        } catch {
            throw Malformed(description: "no JSON: \(error)")
        }
        guard case .object = json else { throw Malformed(description: "no JSON object") }
        return json
    }

    static func text(
        _ json: JSONValue, _ key: String, _ isGood: (String) -> Bool
    ) throws(Malformed) -> String {
        guard let text = json[key]?.string, isGood(text) else {
            throw Malformed(description: "'\(key)' is missing or not what it must be")
        }
        return text
    }

    static func isName(_ text: String) -> Bool {
        (1...63).contains(text.utf8.count) && text.utf8.allSatisfy(isServiceCharacter)
    }

    static func isService(_ text: String) -> Bool {
        (1...255).contains(text.utf8.count) && text.utf8.allSatisfy(isServiceCharacter)
    }

    private static func isTarget(_ text: String) -> Bool {
        isName(text.hasPrefix("@dispvm:") ? String(text.dropFirst(8)) : text)
    }

    /// A service in its two parts, of which the second stands out: `qubes.` and `Filecopy`.
    var serviceParts: (plain: String, bold: String) {
        guard let dot = service.firstIndex(of: ".") else { return ("", service) }
        return (String(service[...dot]), String(service[service.index(after: dot)...]))
    }

    /// The argument as it is shown: not at all when it is empty.
    var shownArgument: String { argument == "+" ? "" : argument }

    /// The target that an answer means: its number in the list, counted from 1, its name, or what
    /// only its name begins with; nil when that is none or several.
    func target(for answer: String) -> String? {
        if targets.contains(answer) { return answer }
        if let number = Int(answer), String(number) == answer, targets.indices.contains(number - 1)
        {
            return targets[number - 1]
        }
        let found = targets.filter { target in
            target.hasPrefix(answer) || answer.hasPrefix("disp") && target.hasPrefix("@" + answer)
        }
        return !answer.isEmpty && found.count == 1 ? found[0] : nil
    }
}

/// What policy.Notify tells (section 13.3).
struct PromptNotification: Equatable {
    let text: String

    init(_ bytes: [UInt8]) throws(PromptRequest.Malformed) {
        let json = try PromptRequest.object(bytes)
        let source = try PromptRequest.text(json, "source", PromptRequest.isName)
        let service = try PromptRequest.text(json, "service", PromptRequest.isService)
        let argument = try PromptRequest.text(json, "argument") { text in
            text.hasPrefix("+") && text.utf8.allSatisfy(isArgumentCharacter)
        }
        // As the calling qube wrote it, where the call was denied.
        let target = try PromptRequest.text(json, "target") { $0.utf8.count <= 1024 }
        let shown = String(
            decoding: target.utf8.map { (0x21...0x7E).contains($0) ? $0 : UInt8(ascii: "_") },
            as: UTF8.self)
        let call = service + (argument == "+" ? "" : argument)
        let place = target.isEmpty ? "" : " in \(shown)"
        switch json["resolution"]?.string {
        case "allow": text = "\(source): \(call)\(place) was allowed"
        case "deny": text = "\(source): \(call)\(place) was denied"
        case "fail": text = "\(source): \(call)\(place) failed"
        default:
            throw PromptRequest.Malformed(description: "'resolution' is not what it must be")
        }
    }
}
