import Foundation
import QrexecPolicy
import QrexecRuntime

/// Figures as a table for people and, with JSON=FILE, as a list for programs.
public struct Report {
    private struct Figure {
        let name: String
        let value: Double
        let unit: String
        /// The figure that this one is compared with, and how often it is in it.
        var ratio: Double?
        var against: String?
        var goal: Double?
        var sign = "≤"
        var holds: Bool?
    }

    private var figures: [Figure] = []

    public init() {}

    /// Adds a figure and prints it.
    ///
    /// - Parameters:
    ///   - atMost: the value, or the ratio when there is one, that is not to be exceeded.
    ///   - atLeast: the one that is to be reached.
    ///   - ratio: how often the figure `against` is in this one.
    public mutating func add(
        _ name: String, _ value: Double, _ unit: String, atMost: Double? = nil,
        atLeast: Double? = nil, ratio: Double? = nil, against: String? = nil
    ) {
        let measured = ratio ?? value
        var holds: Bool?
        if let atMost { holds = measured <= atMost }
        if let atLeast { holds = measured >= atLeast }
        let figure = Figure(
            name: name, value: value, unit: unit, ratio: ratio, against: against,
            goal: atMost ?? atLeast, sign: atMost == nil ? "≥" : "≤", holds: holds)
        figures.append(figure)
        Terminal.print(Self.line(figure))
    }

    private static func line(_ figure: Figure) -> String {
        let width = max(76, figure.name.count)
        var text = figure.name.padding(toLength: width, withPad: " ", startingAt: 0)
        text += String(format: "%12.3f %@", figure.value, figure.unit)
        if let ratio = figure.ratio, let against = figure.against {
            text += String(format: "  = %.3f × %@", ratio, against)
        }
        if let goal = figure.goal, let holds = figure.holds {
            text += String(
                format: "  (goal %@ %g: %@)", figure.sign, goal, holds ? "reached" : "MISSED")
        }
        return text
    }

    /// Whether every goal was reached.
    public var isGood: Bool { figures.allSatisfy { $0.holds ?? true } }

    /// Writes all figures as JSON, the machine first.
    public func write(to path: String) throws {
        func number(_ value: Double?) -> JSONValue {
            value.map { .number(String(format: "%.6g", $0)) } ?? .null
        }
        let entries: [JSONValue] = figures.map {
            .object([
                ("figure", .string($0.name)), ("value", number($0.value)),
                ("unit", .string($0.unit)), ("ratio", number($0.ratio)),
                ("against", $0.against.map { .string($0) } ?? .null), ("goal", number($0.goal)),
                ("holds", $0.holds.map { .bool($0) } ?? .null),
            ])
        }
        let text = JSONValue.array([Self.environment] + entries).text + "\n"
        try text.write(toFile: path, atomically: true, encoding: .utf8)
    }

    /// Makes one list of several: the first one's machine, and all figures.
    public static func merge(_ parts: [String], into path: String) throws {
        var all: [Any] = []
        for part in parts {
            let data = try Data(contentsOf: URL(fileURLWithPath: part))
            let list = try JSONSerialization.jsonObject(with: data) as? [Any] ?? []
            all += all.isEmpty ? list[...] : list.dropFirst()
        }
        let options: JSONSerialization.WritingOptions = [.prettyPrinted, .sortedKeys]
        let data = try JSONSerialization.data(withJSONObject: all, options: options)
        try data.write(to: URL(fileURLWithPath: path))
    }

    private static func firstLine(_ path: String) -> String {
        let text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
        return String(text.split(separator: "\n").first ?? "")
    }

    private static var environment: JSONValue {
        let cores = ProcessInfo.processInfo.activeProcessorCount
        return .object([
            (
                "environment",
                .object([
                    ("machine", .string("\(cores) processors")),
                    ("kernel", .string(firstLine("/proc/sys/kernel/osrelease"))),
                    ("load", .string(firstLine("/proc/loadavg"))),
                ])
            )
        ])
    }
}

/// The value in the middle.
public func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    return sorted.isEmpty ? 0 : sorted[sorted.count / 2]
}
