import Foundation
import QrexecRuntime

/// Figures as a table for people and, with JSON=FILE, as a list for programs.
struct Report {
    struct Figure {
        let name: String
        let value: Double
        let unit: String
        /// How much of `against` the value is; goals are compared with it where there is one.
        var ratio: Double?
        var against: String?
        var goal: Double?
        var holds: Bool?
    }

    enum Goal {
        case atMost(Double)
        case atLeast(Double)

        var bound: Double {
            switch self {
            case .atMost(let bound), .atLeast(let bound): bound
            }
        }

        func holds(_ value: Double) -> Bool {
            switch self {
            case .atMost(let bound): value <= bound
            case .atLeast(let bound): value >= bound
            }
        }

        var text: String {
            switch self {
            case .atMost(let bound): "≤ \(shortNumber(bound))"
            case .atLeast(let bound): "≥ \(shortNumber(bound))"
            }
        }
    }

    private(set) var figures: [Figure] = []
    private let load = Report.firstLine("/proc/loadavg")

    mutating func add(
        _ name: String, _ value: Double, _ unit: String, ratio: Double? = nil,
        against: String? = nil, goal: Goal? = nil
    ) {
        let holds = goal.map { $0.holds(ratio ?? value) }
        figures.append(
            Figure(
                name: name, value: value, unit: unit, ratio: ratio, against: against,
                goal: goal?.bound, holds: holds))
        var line = padded(name, 64) + padded("\(shortNumber(value)) \(unit)", 16, right: true)
        let comparison = ratio.map { "\(shortNumber($0)) × \(against ?? "")" } ?? ""
        line += "  " + padded(comparison, 24)
        if let goal, let holds { line += "\(goal.text)  \(holds ? "reached" : "MISSED")" }
        Terminal.print(line)
    }

    var isGood: Bool { figures.allSatisfy { $0.holds ?? true } }

    func write(to path: String) throws {
        var entries: [Any] = [["environment": environment]]
        for figure in figures {
            entries.append([
                "figure": figure.name, "value": figure.value, "unit": figure.unit,
                "ratio": figure.ratio ?? NSNull() as Any, "goal": figure.goal ?? NSNull() as Any,
                "against": figure.against ?? NSNull() as Any,
                "holds": figure.holds ?? NSNull() as Any,
            ])
        }
        try Self.write(entries, to: path)
    }

    private var environment: [String: String] {
        let processor = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8))?
            .split(separator: "\n").first { $0.hasPrefix("model name") }?
            .split(separator: ":").last?.trimmingCharacters(in: .whitespaces)
        let cores = ProcessInfo.processInfo.activeProcessorCount
        return [
            "machine": "\(cores) × \(processor ?? "processor")",
            "kernel": Self.firstLine("/proc/sys/kernel/osrelease"),
            "load": load,
        ]
    }

    private static func firstLine(_ path: String) -> String {
        let text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
        return String(text.split(separator: "\n").first ?? "")
    }

    private static func write(_ entries: [Any], to path: String) throws {
        let data = try JSONSerialization.data(
            withJSONObject: entries, options: [.prettyPrinted, .sortedKeys])
        try data.write(to: URL(fileURLWithPath: path))
    }

    /// Makes one list of several: the first environment, and all figures.
    static func merge(_ paths: [String], into path: String) throws {
        var all: [Any] = []
        for part in paths {
            let data = try Data(contentsOf: URL(fileURLWithPath: part))
            let list = try JSONSerialization.jsonObject(with: data) as? [Any] ?? []
            all += all.isEmpty ? list[...] : list.dropFirst()
        }
        try write(all, to: path)
    }
}

/// A number as people read it: three or four digits that mean something.
func shortNumber(_ value: Double) -> String {
    if value >= 1000 { return String(Int(value.rounded())) }
    let digits = value >= 100 ? 0 : value >= 10 ? 1 : 2
    return String(format: "%.\(digits)f", value)
}

func padded(_ text: String, _ width: Int, right: Bool = false) -> String {
    let space = String(repeating: " ", count: max(0, width - text.count))
    return right ? space + text : text + space
}

func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    return sorted.isEmpty ? 0 : sorted[sorted.count / 2]
}
