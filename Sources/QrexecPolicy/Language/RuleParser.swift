/// Rule lines (sections 12.2, 12.3, 12.5).
extension PolicyParser {
    mutating func parseRule(_ line: LineText, _ context: LineContext) {
        let oldFormat = context.context.oldFormat
        let first = oldFormat == nil ? 2 : 0
        if fields.count < first + 3 {
            report(
                context.file, context.line, line.end,
                found: fields.count == 1 ? "1 field" : "\(fields.count) fields",
                expected: oldFormat == nil
                    ? "'SERVICE ARGUMENT SOURCE TARGET ACTION [PARAMETER=VALUE ...]'"
                    : "'SOURCE TARGET ACTION[,PARAMETER=VALUE...]'",
                suggestion: missingArgument(line, oldFormat == nil))
            return
        }
        var isValid = true
        var service = oldFormat?.service
        var argument = oldFormat?.argument
        if oldFormat == nil {
            service = parseService(fields[0], line, context)
            argument = parseArgument(fields[1], line, context)
            if let service, let argument {
                isValid = checkWildcard(service: service, argument: argument, line, context)
            }
        }
        let source = parseToken(fields[first], .source, line, context)
        let target = parseToken(fields[first + 1], .target, line, context)
        let action = parseAction(fields[first + 2], line, context)
        guard let action else { return }
        var rule = Rule(
            service: service ?? SymbolTable.none, argument: argument ?? SymbolTable.none,
            source: source ?? Token(kind: .everything, symbol: 0),
            target: target ?? Token(kind: .everything, symbol: 0), action: action,
            notify: action == .deny, file: context.number, line: Int32(context.line))
        let parametersAreValid = parseParameters(from: first + 3, &rule, line, context)
        guard parametersAreValid, isValid, service != nil, argument != nil, source != nil,
            let target
        else { return }
        if action == .allow, target.kind == .default, rule.redirect == nil {
            report(
                context.file, context.line, line.column(fields[first + 2]),
                found: "'allow' for the target @default",
                expected: "where the call is to go, with target=")
            return
        }
        add(rule)
    }

    /// A new rule without its argument is the most frequent of these errors.
    private func missingArgument(_ line: LineText, _ isNew: Bool) -> String? {
        guard isNew, fields.count == 4,
            PolicyAction(rawValue: line.text(fields[3])) != nil
        else { return nil }
        let rest = fields[1...3].map { line.text($0) }.joined(separator: " ")
        return "\(line.text(fields[0])) * \(rest)"
    }

    private mutating func parseAction(
        _ field: Range<Int>, _ line: LineText, _ context: LineContext
    ) -> PolicyAction? {
        let bytes = line.bytes.span.extracting(field)
        if bytes.isEqual("allow") { return .allow }
        if bytes.isEqual("deny") { return .deny }
        if bytes.isEqual("ask") { return .ask }
        let word = line.text(field)
        report(
            context.file, context.line, line.column(field), found: "the action '\(word)'",
            expected: "allow, ask or deny",
            suggestion: nearest(to: word.lowercased(), among: ["allow", "ask", "deny"])
                ?? (["allow", "ask", "deny"].contains(word.lowercased())
                    ? word.lowercased() : nil))
        return nil
    }

    /// The symbol of a service, or `SymbolTable.none` for `*`.
    mutating func parseService(
        _ field: Range<Int>, _ line: LineText, _ context: LineContext
    ) -> Int32? {
        let bytes = line.bytes.span.extracting(field)
        if bytes.isEqual("*") { return SymbolTable.none }
        for index in bytes.indices where !isServiceByte(bytes[index]) {
            let isPlus = bytes[index] == UInt8(ascii: "+")
            let text = line.text(field)
            report(
                context.file, context.line, line.column(field) + index,
                found:
                    "'\(character(at: field.lowerBound + index, line))' in the service '\(text)'",
                expected: "letters, digits, '-', '.' and '_', or '*' alone",
                suggestion: isPlus ? text.replacingFirst("+", with: " +") : nil)
            return nil
        }
        return policy.symbols.intern(bytes)
    }

    /// The symbol of an argument with its `+`, or `SymbolTable.none` for `*`.
    mutating func parseArgument(
        _ field: Range<Int>, _ line: LineText, _ context: LineContext
    ) -> Int32? {
        let bytes = line.bytes.span.extracting(field)
        if bytes.isEqual("*") { return SymbolTable.none }
        if bytes[0] != UInt8(ascii: "+") {
            let text = line.text(field)
            report(
                context.file, context.line, line.column(field), found: "the argument '\(text)'",
                expected: "'*' or '+' with what follows it",
                suggestion: text.utf8.allSatisfy(isArgumentByte) ? "+" + text : nil)
            return nil
        }
        for index in bytes.indices where !isArgumentByte(bytes[index]) {
            report(
                context.file, context.line, line.column(field) + index,
                found: "'\(character(at: field.lowerBound + index, line))' in an argument",
                expected: "letters, digits, '-', '.', '_' and '+'")
            return nil
        }
        return policy.symbols.intern(bytes)
    }

    mutating func checkWildcard(
        service: Int32, argument: Int32, _ line: LineText, _ context: LineContext
    ) -> Bool {
        if service != SymbolTable.none || argument == SymbolTable.none { return true }
        report(
            context.file, context.line, line.indent + 1,
            found: "the service '*' with the argument '\(policy.symbols.text(argument))'",
            expected: "the argument '*', since an argument means something to one service only",
            suggestion: "* *")
        return false
    }

    private func character(at offset: Int, _ line: LineText) -> String {
        let rest = String(decoding: line.bytes[offset...].prefix(8), as: UTF8.self)
        return rest.first.map { String($0) } ?? ""
    }

    mutating func parseToken(
        _ field: Range<Int>, _ place: TokenPlace, _ line: LineText, _ context: LineContext,
        column: Int? = nil
    ) -> Token? {
        let bytes = line.bytes.span.extracting(field)
        if let shape = readToken(bytes), shape.kind.isAllowed(in: place) {
            let token = Token(
                kind: shape.kind,
                symbol: policy.symbols.intern(bytes.extracting(droppingFirst: shape.prefix)))
            if shape.kind == .qube || shape.kind == .type || shape.kind == .disposableOf {
                warn(about: token, field, line, context)
            }
            return token
        }
        let text = line.text(field)
        report(
            context.file, context.line, column ?? line.column(field),
            found: text.isEmpty ? "nothing" : "'\(text)' as \(place.noun)",
            expected: place.expectation,
            suggestion: nearestToken(to: text, place))
        return nil
    }

    /// Tells about texts that are allowed but that nothing can ever match.
    private mutating func warn(
        about token: Token, _ field: Range<Int>, _ line: LineText, _ context: LineContext
    ) {
        let text = policy.symbols[token.symbol]
        switch token.kind {
        case .type:
            let word = policy.symbols.text(token.symbol)
            if qubeTypes.contains(word) { return }
            report(
                context.file, context.line, line.column(field), found: "the type '\(word)'",
                expected: "one of " + qubeTypes.joined(separator: ", "),
                suggestion: nearest(to: word, among: qubeTypes).map { "@type:" + $0 },
                severity: .warning)
        default:
            if couldBeQube(text) { return }
            let word = line.text(field)
            report(
                context.file, context.line, line.column(field), found: "'\(word)'",
                expected: "a name that a qube can have, uuid:UUID, or a keyword with '@'",
                suggestion: nearestToken(to: "@" + word, .target), severity: .warning)
        }
    }
}

let qubeTypes = ["AdminVM", "AppVM", "TemplateVM", "StandaloneVM", "DispVM", "RemoteVM"]

/// Whether a qube can have that name, or the text is a uuid (appendix A).
private func couldBeQube(_ text: ArraySlice<UInt8>) -> Bool {
    if text.starts(with: "uuid:".utf8) {
        return text.count == 41
            && text.dropFirst(5).enumerated().allSatisfy { index, byte in
                switch index {
                case 8, 13, 18, 23: byte == UInt8(ascii: "-")
                default:
                    (0x30...0x39).contains(byte) || (0x61...0x66).contains(byte)
                }
            }
    }
    guard let first = text.first, (first | 0x20) >= 0x61, (first | 0x20) <= 0x7a else {
        return false
    }
    return text.count <= 31 && text.allSatisfy(isServiceByte)
}

extension TokenPlace {
    var noun: String {
        switch self {
        case .source: "source"
        case .target: "target"
        case .redirect: "the qube a call goes to"
        case .request: "target of a call"
        }
    }

    var expectation: String {
        switch self {
        case .source:
            "NAME, uuid:UUID, *, @anyvm, @adminvm, @tag:TAG, @type:CLASS or @dispvm:NAME"
        case .target:
            "NAME, uuid:UUID, *, @anyvm, @adminvm, @default, @dispvm, @dispvm:NAME, "
                + "@dispvm:@tag:TAG, @tag:TAG or @type:CLASS"
        case .redirect: "NAME, uuid:UUID, @adminvm, @dispvm or @dispvm:NAME"
        case .request: "NAME, uuid:UUID, @adminvm, @default, @dispvm or @dispvm:NAME"
        }
    }
}

/// The token that a text with a typing error was most likely meant to be.
func nearestToken(to text: String, _ place: TokenPlace) -> String? {
    let words: [(String, Token.Kind)] = [
        ("@adminvm", .adminQube), ("@anyvm", .anyQube), ("@default", .default),
        ("@dispvm", .disposable),
    ]
    let prefixes: [(String, Token.Kind)] = [
        ("@dispvm", .disposableOf), ("@tag", .tag), ("@type", .type),
    ]
    if let colon = text.firstIndex(of: ":") {
        let allowed = prefixes.filter { $0.1.isAllowed(in: place) }.map(\.0)
        guard let prefix = nearest(to: String(text[..<colon]), among: allowed) else { return nil }
        return prefix + text[colon...]
    }
    return nearest(
        to: text.lowercased(), among: words.filter { $0.1.isAllowed(in: place) }.map(\.0))
}

extension String {
    fileprivate func replacingFirst(_ character: Character, with text: String) -> String {
        guard let index = firstIndex(of: character) else { return self }
        return String(self[..<index]) + text + self[self.index(after: index)...]
    }
}
