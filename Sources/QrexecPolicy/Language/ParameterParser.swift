/// What follows the action of a rule: `key=value` (section 12.5).
extension PolicyParser {
    /// Reads all parameters of a rule into it.
    ///
    /// - Returns: whether all are valid.
    mutating func parseParameters(
        from first: Int, _ rule: inout Rule, _ line: LineText, _ context: LineContext
    ) -> Bool {
        var isValid = true
        var seen: [Parameter] = []
        for index in first..<max(first, fields.count) {
            let field = fields[index]
            guard let equals = line.bytes[field].firstIndex(of: UInt8(ascii: "=")) else {
                let text = line.text(field)
                report(
                    context.file, context.line, line.column(field), found: "'\(text)'",
                    expected: text.hasPrefix("#")
                        ? "nothing more: a comment stands on a line of its own"
                        : "a parameter KEY=VALUE")
                // What follows a comment sign is no list of parameters.
                if text.hasPrefix("#") { return false }
                isValid = false
                continue
            }
            let key = field.lowerBound..<equals
            let value = equals + 1..<field.upperBound
            guard let parameter = parseKey(key, rule.action, line, context) else {
                isValid = false
                continue
            }
            if seen.contains(parameter) {
                report(
                    context.file, context.line, line.column(field),
                    found: "'\(parameter.rawValue)' again", expected: "each parameter once")
                isValid = false
                continue
            }
            seen.append(parameter)
            if !set(parameter, value, &rule, line, context) { isValid = false }
        }
        return isValid
    }

    private mutating func parseKey(
        _ key: Range<Int>, _ action: PolicyAction, _ line: LineText, _ context: LineContext
    ) -> Parameter? {
        let allowed = Parameter.allowed(for: action)
        let word = line.text(key)
        if let parameter = Parameter(rawValue: word), allowed.contains(parameter) {
            return parameter
        }
        let words = allowed.map(\.rawValue)
        report(
            context.file, context.line, line.column(key),
            found: "the parameter '\(word)' of '\(action.rawValue)'",
            expected: words.count == 1 ? words[0] : "one of " + words.joined(separator: ", "),
            suggestion: nearest(to: word, among: words))
        return nil
    }

    private mutating func set(
        _ parameter: Parameter, _ value: Range<Int>, _ rule: inout Rule, _ line: LineText,
        _ context: LineContext
    ) -> Bool {
        switch parameter {
        case .target:
            rule.redirect = parseToken(value, .redirect, line, context)
            return rule.redirect != nil
        case .defaultTarget:
            rule.defaultTarget = parseToken(value, .redirect, line, context)
            return rule.defaultTarget != nil
        case .user:
            // An empty user is the default one.
            if !value.isEmpty {
                rule.user = policy.symbols.intern(line.bytes.span.extracting(value))
            }
            return true
        case .notify, .autostart:
            guard let isOn = parseBoolean(parameter, value, line, context) else { return false }
            if parameter == .notify { rule.notify = isOn } else { rule.autostart = isOn }
            return true
        }
    }

    private mutating func parseBoolean(
        _ parameter: Parameter, _ value: Range<Int>, _ line: LineText, _ context: LineContext
    ) -> Bool? {
        let bytes = line.bytes.span.extracting(value)
        if bytes.isEqual("yes") { return true }
        if bytes.isEqual("no") { return false }
        let word = line.text(value)
        let meaning = [
            "true": "yes", "false": "no", "1": "yes", "0": "no", "on": "yes", "off": "no",
        ]
        report(
            context.file, context.line, line.column(value),
            found: "'\(word)' for \(parameter.rawValue)", expected: "yes or no",
            suggestion: meaning[word.lowercased()]
                ?? nearest(to: word.lowercased(), among: ["yes", "no"]))
        return nil
    }
}

/// The keys of a rule's parameters.
enum Parameter: String {
    case target
    case defaultTarget = "default_target"
    case user
    case notify
    case autostart

    static func allowed(for action: PolicyAction) -> [Parameter] {
        switch action {
        case .allow: [.target, .user, .notify, .autostart]
        case .ask: [.target, .defaultTarget, .user, .notify, .autostart]
        case .deny: [.notify]
        }
    }
}
