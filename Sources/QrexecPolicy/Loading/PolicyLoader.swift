import SystemPackage

/// The directories that a policy is made of (section 12.1).
public struct PolicyDirectories: Sendable {
    /// First one first: a file name seen in one hides the same name in those that follow.
    public var directories: [String]
    /// What `!compat-4.0` reads.
    public var legacy: String

    public init(
        _ directories: [String] = ["/run/qubes/policy.d", "/etc/qubes/policy.d"],
        legacy: String = "/etc/qubes-rpc/policy"
    ) {
        self.directories = directories.map { normalizedPath($0) }
        self.legacy = normalizedPath(legacy)
    }
}

/// What loading gave: a policy that may be used, or the errors for which it may not.
public struct PolicyLoadResult: Sendable {
    /// The rules that could be read. Only a policy without errors may decide.
    public let policy: Policy
    /// Errors and warnings in the order of the policy.
    public let diagnostics: [PolicyDiagnostic]

    public var errors: [PolicyDiagnostic] { diagnostics.filter { $0.severity == .error } }
    /// Whether the policy may decide.
    public var isUsable: Bool { !diagnostics.contains { $0.severity == .error } }
}

extension Policy {
    /// Reads all files of a policy. Every error of every file is told, not only the first.
    public static func load(
        _ directories: PolicyDirectories, files: any PolicyFiles = DiskPolicyFiles()
    ) -> PolicyLoadResult {
        var parser = PolicyParser(files: files, directories: directories)
        parser.parseAll()
        return PolicyLoadResult(policy: parser.policy, diagnostics: parser.diagnostics)
    }

    /// Reads one file as if it were the only one, for a linter.
    ///
    /// - Parameters:
    ///   - contents: nil reads the path.
    ///   - oldFormat: whether it is a file for `!include-service`, with three fields a line.
    public static func loadFile(
        _ path: String, contents: [UInt8]? = nil, oldFormat: Bool = false,
        directories: PolicyDirectories, files: any PolicyFiles = DiskPolicyFiles()
    ) -> PolicyLoadResult {
        var source = files
        if let contents { source = OverlayPolicyFiles(files, changes: [path: contents]) }
        var parser = PolicyParser(files: source, directories: directories)
        parser.parseSingle(path, oldFormat: oldFormat)
        return PolicyLoadResult(policy: parser.policy, diagnostics: parser.diagnostics)
    }
}

/// The one rule for names of policy files, for the loader, the linter and the admin service.
public enum PolicyFileName {
    public static let suffix = ".policy"

    /// What a directory entry is to the loader (section 12.1).
    public enum Kind: Sendable {
        case ignored
        case policy
        /// It looks like a policy file, but its name is not allowed: nothing may be loaded.
        case invalid
    }

    public static func kind(_ name: String) -> Kind {
        if name.hasPrefix(".") || !name.hasSuffix(suffix) { return .ignored }
        return name.utf8.allSatisfy(isAllowed) ? .policy : .invalid
    }

    /// The loader's characters: lower-case letters, digits, `_`, `.`, `-`.
    public static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "_"), UInt8(ascii: "."), UInt8(ascii: "-"):
            true
        default: false
        }
    }
}

/// Byte order, which is the order of the rules.
func precedes(_ left: String, _ right: String) -> Bool {
    left.utf8.lexicographicallyPrecedes(right.utf8)
}

extension PolicyParser {
    /// Reads the files of all directories, sorted together by name.
    mutating func parseAll() {
        var chosen: [(name: String, directory: String)] = []
        var seen: Set<String> = []
        for directory in directories.directories {
            let base = PolicyFile(path: directory, display: directory)
            for name in policyNames(in: directory, at: base, line: 0) ?? []
            where seen.insert(name).inserted {
                chosen.append((name, directory))
            }
        }
        chosen.sort { precedes($0.name, $1.name) }
        for (name, directory) in chosen {
            let file = PolicyFile(path: directory + "/" + name, display: name)
            parse(file, Context(base: directory), from: nil)
        }
    }

    mutating func parseSingle(_ path: String, oldFormat: Bool) {
        let path = normalizedPath(path)
        var base = parentPath(path)
        for directory in directories.directories where path.hasPrefix(directory + "/") {
            base = directory
        }
        let file = PolicyFile(path: path, display: displayPath(path, base: base))
        var context = Context(base: base)
        if oldFormat { context.oldFormat = (SymbolTable.none, SymbolTable.none) }
        parse(file, context, from: nil)
    }

    /// The names of the policy files of a directory, sorted; nil, reported, when there are none to
    /// be had.
    mutating func policyNames(
        in directory: String, at place: PolicyFile, line: Int, column: Int = 0
    ) -> [String]? {
        let entries: [PolicyDirectoryEntry]
        do throws(Errno) {
            entries = try files.entries(of: directory)
        } catch {
            report(
                place, line, column, found: "'\(directory)': \(error)",
                expected: "a directory that can be read")
            return nil
        }
        policy.directories.append(directory)
        var names: [String] = []
        for entry in entries where entry.isRegularFile {
            switch PolicyFileName.kind(entry.name) {
            case .ignored: continue
            case .policy: names.append(entry.name)
            case .invalid:
                let path = directory + "/" + entry.name
                report(
                    PolicyFile(path: path, display: displayPath(path, base: directory)), 0, 0,
                    found: "a policy file of this name",
                    expected: "a name of lower-case letters, digits, '_', '.' and '-' only",
                    suggestion: entry.name.lowercased())
            }
        }
        return names.sorted(by: precedes)
    }

    /// Reads the old rules, one file a service, where `!compat-4.0` stands (section 12.2).
    mutating func parseLegacy(at place: PolicyFile, line: Int) {
        let directory = directories.legacy
        let entries: [PolicyDirectoryEntry]
        do throws(Errno) {
            entries = try files.entries(of: directory)
        } catch {
            report(
                place, line, 1, found: "'\(directory)': \(error)",
                expected: "the directory that !compat-4.0 reads, which may be empty")
            return
        }
        policy.directories.append(directory)
        var names: [(name: String, service: String, argument: String?)] = []
        for entry in entries where entry.isRegularFile {
            let name = entry.name
            if name.hasPrefix(".") { continue }
            if [".rpmsave", ".rpmnew", ".swp"].contains(where: { name.hasSuffix($0) }) { continue }
            guard name.utf8.allSatisfy(isArgumentByte), !name.hasPrefix("+") else {
                let path = directory + "/" + name
                report(
                    PolicyFile(path: path, display: path), 0, 0, found: "a file of this name",
                    expected: "SERVICE or SERVICE+ARGUMENT with the characters of a service")
                continue
            }
            let plus = name.firstIndex(of: "+")
            names.append(
                (name, String(name[..<(plus ?? name.endIndex)]), plus.map { String(name[$0...]) }))
        }
        // For each service the files with an argument, sorted, and then the plain one.
        names.sort { left, right in
            if left.service != right.service { return precedes(left.service, right.service) }
            guard let leftArgument = left.argument else { return false }
            guard let rightArgument = right.argument else { return true }
            return precedes(leftArgument, rightArgument)
        }
        for (name, service, argument) in names {
            let file = PolicyFile(path: directory + "/" + name, display: directory + "/" + name)
            var context = Context(base: directory)
            let symbols = (
                policy.symbols.intern(service),
                argument.map { policy.symbols.intern($0) } ?? SymbolTable.none
            )
            context.oldFormat = symbols
            context.isLegacy = true
            parse(file, context, from: (place, line, 1))
            if argument != nil { addImplicitDenials(file, service: symbols.0, argument: symbols.1) }
        }
    }

    /// What an argument's own file does not allow is denied: the plain file is not asked.
    private mutating func addImplicitDenials(
        _ file: PolicyFile, service: Int32, argument: Int32
    ) {
        let number = self.number(of: file)
        let anyQube = Token(kind: .anyQube, symbol: policy.symbols.intern("@anyvm"))
        let adminQube = Token(kind: .adminQube, symbol: policy.symbols.intern("@adminvm"))
        for target in [anyQube, adminQube] {
            add(
                Rule(
                    service: service, argument: argument, source: anyQube, target: target,
                    action: .deny, notify: true, file: number, line: 0))
        }
    }
}
