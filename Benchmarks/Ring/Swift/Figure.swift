/// One figure of the table, and of the JSON list that other tools read.
struct Figure {
    enum Goal {
        case atLeast(Double)
        case atMost(Double)
        case none
    }

    let name: String
    let value: Double
    let unit: String
    /// The value of what it is compared with, in the same run: ours against theirs, so that larger
    /// is better for rates, and smaller for costs.
    let ratio: Double?
    let against: String?
    let goal: Goal

    var holds: Bool? {
        let measure = ratio ?? value
        return switch goal {
        case .atLeast(let limit): measure >= limit
        case .atMost(let limit): measure <= limit
        case .none: nil
        }
    }

    private var limit: Double? {
        switch goal {
        case .atLeast(let limit), .atMost(let limit): limit
        case .none: nil
        }
    }

    var line: String {
        let goalText =
            switch goal {
            case .atLeast(let limit): ">= " + Self.short(limit)
            case .atMost(let limit): "<= " + Self.short(limit)
            case .none: ""
            }
        let verdict = holds.map { $0 ? "yes" : "NO" } ?? ""
        return Self.pad(name, 46) + Self.padLeft(Self.short(value), 10) + " " + Self.pad(unit, 14)
            + Self.padLeft(ratio.map { Self.short($0) } ?? "", 9) + "  "
            + Self.pad(against ?? "", 22)
            + Self.pad(goalText, 9) + verdict
    }

    static let heading =
        pad("figure", 46) + padLeft("value", 10) + " " + pad("unit", 14) + padLeft("ratio", 9)
        + "  " + pad("against", 22) + pad("goal", 9) + "holds"

    var json: String {
        let fields = [
            "\"figure\": \"\(name)\"", "\"value\": \(value)", "\"unit\": \"\(unit)\"",
            "\"ratio\": \(ratio.map { "\($0)" } ?? "null")",
            "\"against\": \(against.map { "\"\($0)\"" } ?? "null")",
            "\"goal\": \(limit.map { "\($0)" } ?? "null")",
            "\"holds\": \(holds.map { "\($0)" } ?? "null")",
        ]
        return "{" + fields.joined(separator: ", ") + "}"
    }

    /// Three significant digits, without a library for it.
    static func short(_ number: Double) -> String {
        if number >= 100 { return String(Int(number.rounded())) }
        let places = number >= 10 ? 1 : number >= 1 ? 2 : 4
        var scale = 1
        for _ in 0..<places { scale *= 10 }
        let scaled = Int((number * Double(scale)).rounded())
        let fraction = String(scaled % scale)
        let zeroes = String(repeating: "0", count: places - fraction.count)
        return "\(scaled / scale).\(zeroes)\(fraction)"
    }

    private static func pad(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(1, width - text.count))
    }

    private static func padLeft(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.count)) + text
    }
}
