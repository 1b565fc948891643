/// Something wrong in a policy file, told so that it can be mended without a manual.
public struct PolicyDiagnostic: Error, Sendable, Hashable, CustomStringConvertible {
    public enum Severity: String, Sendable {
        /// The set of files is not used.
        case error
        /// Allowed, but it cannot do what it seems to say.
        case warning
    }

    public let severity: Severity
    public let file: PolicyFile
    /// Counted from 1; 0 when the whole file or directory is meant.
    public let line: Int
    /// Bytes from the beginning of the line, counted from 1; 0 when the whole line is meant.
    public let column: Int
    public let found: String
    public let expected: String
    /// What was probably meant.
    public let suggestion: String?

    /// The text without file, line and column.
    public var message: String {
        var text = "found \(found), expected \(expected)"
        if let suggestion { text += "; did you mean '\(suggestion)'?" }
        return text
    }

    /// `FILE:LINE:COLUMN: SEVERITY: MESSAGE`, with the file below its policy directory.
    public var description: String {
        var text = file.display
        if line > 0 { text += ":\(line)" }
        if line > 0 && column > 0 { text += ":\(column)" }
        return "\(text): \(severity.rawValue): \(message)"
    }
}

/// The word among `words` that `text` was most likely meant to be: at most two typing errors away.
func nearest(to text: String, among words: [String]) -> String? {
    if text.utf8.count > 64 { return nil }
    var best: (word: String, distance: Int)?
    for word in words {
        let distance = editDistance(Array(text.utf8), Array(word.utf8))
        // A short word is near to everything: fewer errors are believed.
        if distance > min(2, word.utf8.count / 3) || distance == 0 { continue }
        if best == nil || distance < best!.distance { best = (word, distance) }
    }
    return best?.word
}

/// Letters to insert, delete, replace or swap with the next one.
private func editDistance(_ left: [UInt8], _ right: [UInt8]) -> Int {
    var beforePrevious: [Int] = []
    var previous = Array(0...right.count)
    for row in 0..<left.count {
        var current = [row + 1]
        for column in 0..<right.count {
            var cost = min(previous[column + 1], current[column]) + 1
            cost = min(cost, previous[column] + (left[row] == right[column] ? 0 : 1))
            if row > 0, column > 0, left[row] == right[column - 1], left[row - 1] == right[column] {
                cost = min(cost, beforePrevious[column - 1] + 1)
            }
            current.append(cost)
        }
        beforePrevious = previous
        previous = current
    }
    return previous[right.count]
}
