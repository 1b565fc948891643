import Foundation

/// How a lab's status is shown.
enum StatusView {
    static func json(_ status: LabStatus) -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(status) else { return "{}" }
        return String(decoding: data, as: UTF8.self)
    }

    static func table(_ status: LabStatus) -> String {
        let rows =
            [["NAME", "STATE", "DOMID", "TYPE", "LABEL", "AGENT", "DAEMON"]]
            + status.qubes.map { qube in
                [
                    qube.name,
                    qube.inUse || qube.powerState == "Halted" ? qube.powerState : "Pooled",
                    number(qube.domid), qube.type, qube.label, number(qube.agentPID),
                    number(qube.daemonPID),
                ]
            }
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        let lines = rows.map { row in
            let cells = zip(row, widths).map {
                $0.padding(toLength: $1, withPad: " ", startingAt: 0)
            }
            return cells.joined(separator: "  ").trimmingCharacters(in: .whitespaces)
        }
        return "State:  \(status.state)\nPolicy: \(status.policyDirectory)\n\n"
            + lines.joined(separator: "\n")
    }

    private static func number(_ value: (some BinaryInteger)?) -> String {
        value.map { "\($0)" } ?? "-"
    }
}
