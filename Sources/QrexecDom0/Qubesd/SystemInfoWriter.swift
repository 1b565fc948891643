/// Writes the answer of internal.GetSystemInfo (section 14).
enum SystemInfoWriter {
    static func json(_ qubes: [QubeRecord]) -> String {
        var text = "{\"domains\": {"
        text += qubes.map { "\(string($0.name)): \(entry($0))" }.joined(separator: ", ")
        return text + "}}"
    }

    private static func entry(_ qube: QubeRecord) -> String {
        let fields: [(String, String)] = [
            ("tags", "[" + qube.tags.map(string).joined(separator: ", ") + "]"),
            ("type", string(qube.type.rawValue)),
            ("template_for_dispvms", qube.isTemplateForDisposables ? "true" : "false"),
            ("default_dispvm", optional(qube.defaultDisposable)),
            ("icon", string(qube.icon)),
            ("label", string(qube.label)),
            ("guivm", optional(qube.guiQube)),
            ("power_state", string(qube.powerState.rawValue)),
            ("uuid", string(qube.uuid)),
            ("internal", qube.isInternal ? "\"1\"" : "null"),
            ("relayvm", optional(qube.relayQube)),
            ("transport_rpc", optional(qube.transportService)),
        ]
        return "{" + fields.map { "\"\($0.0)\": \($0.1)" }.joined(separator: ", ") + "}"
    }

    private static func optional(_ text: String?) -> String { text.map(string) ?? "null" }

    static func string(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\":
                result += "\\"
                result.unicodeScalars.append(scalar)
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default:
                result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
