/// Lines that begin with `!` (section 12.2).
extension PolicyParser {
    mutating func parseDirective(_ line: LineText, _ context: LineContext) {
        if context.context.oldFormat != nil {
            parseOldDirective(line, context)
            return
        }
        switch line.text(fields[0]) {
        case "!include":
            if let path = pathField(1, of: 2, line, context) { include(path, line, context) }
        case "!include-dir":
            if let path = pathField(1, of: 2, line, context) {
                includeDirectory(path, line, context)
            }
        case "!include-service":
            guard let path = pathField(3, of: 4, line, context) else { return }
            let service = parseService(fields[1], line, context)
            let argument = parseArgument(fields[2], line, context)
            guard let service, let argument,
                checkWildcard(service: service, argument: argument, line, context)
            else { return }
            var inner = Context(base: context.context.base)
            inner.oldFormat = (service, argument)
            include(path, line, context, inner: inner)
        case "!compat-4.0":
            if fields.count != 1 {
                reportCount(of: 1, "!compat-4.0 alone", line, context)
                return
            }
            parseLegacy(at: context.file, line: context.line)
        case let word:
            report(
                context.file, context.line, line.column(fields[0]),
                found: "the directive '\(word)'",
                expected: "!include, !include-dir, !include-service or !compat-4.0",
                suggestion: nearest(
                    to: word,
                    among: ["!include", "!include-dir", "!include-service", "!compat-4.0"]))
        }
    }

    private mutating func parseOldDirective(_ line: LineText, _ context: LineContext) {
        let first = line.text(fields[0])
        if first.hasPrefix("@include:") {
            let path = fields[0].lowerBound + 9..<fields[0].upperBound
            if fields.count != 1 || path.isEmpty {
                reportCount(of: 1, "$include:PATH", line, context)
            } else {
                include(path, line, context)
            }
        } else if first == "!include" {
            if let path = pathField(1, of: 2, line, context) { include(path, line, context) }
        } else {
            report(
                context.file, context.line, line.column(fields[0]),
                found: "the directive '\(first)'",
                expected:
                    "a rule 'SOURCE TARGET ACTION' or $include:PATH in a file of the old format")
        }
    }

    private mutating func reportCount(
        of count: Int, _ expected: String, _ line: LineText, _ context: LineContext
    ) {
        let column = fields.count > count ? line.column(fields[count]) : line.end
        report(
            context.file, context.line, column,
            found: fields.count == 1 ? "1 field" : "\(fields.count) fields", expected: expected)
    }

    /// The field that holds a path, when the line has as many fields as it must.
    private mutating func pathField(
        _ index: Int, of count: Int, _ line: LineText, _ context: LineContext
    ) -> Range<Int>? {
        if fields.count == count { return fields[index] }
        let shape = count == 4 ? " SERVICE ARGUMENT PATH" : " PATH"
        reportCount(of: count, "'\(line.text(fields[0]))\(shape)'", line, context)
        return nil
    }

    private func resolve(_ path: String, _ context: LineContext) -> String {
        normalizedPath(path.hasPrefix("/") ? path : context.context.base + "/" + path)
    }

    private mutating func include(
        _ field: Range<Int>, _ line: LineText, _ context: LineContext, inner: Context? = nil
    ) {
        let path = resolve(line.text(field), context)
        let display = displayPath(path, base: context.context.base)
        parse(
            PolicyFile(path: path, display: display), inner ?? context.context,
            from: (context.file, context.line, line.column(field)))
    }

    private mutating func includeDirectory(
        _ field: Range<Int>, _ line: LineText, _ context: LineContext
    ) {
        let directory = resolve(line.text(field), context)
        let column = line.column(field)
        let names = policyNames(
            in: directory, at: context.file, line: context.line, column: column)
        for name in names ?? [] {
            let path = directory + "/" + name
            let display = displayPath(path, base: context.context.base)
            parse(
                PolicyFile(path: path, display: display), context.context,
                from: (context.file, context.line, column))
        }
    }
}
