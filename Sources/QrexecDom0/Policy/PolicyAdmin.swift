import Glibc
public import LinuxSystem
public import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// Reading and changing the files of the policy, for the services policy.* and for people's tools
/// (section 13.4). Nothing is changed unless the whole policy, as it would be, can be loaded.
public struct PolicyAdmin {
    /// Errors under the names that clients of these services know.
    public struct Failure: Error, Equatable, CustomStringConvertible {
        public enum Kind: String, Sendable {
            case notFound = "PolicyAdminFileNotFoundException"
            case token = "PolicyAdminTokenException"
            case protocolError = "PolicyAdminProtocolException"
            case syntax = "PolicyAdminSyntaxException"
            case invalidName = "PolicyAdminInvalidFileNameException"
            case invalidPath = "PolicyAdminInvalidFilePathException"
            /// Not the caller's fault.
            case failed = "PolicyAdminException"
        }

        public let kind: Kind
        public let message: String
        public var description: String { "\(kind.rawValue) \(message)" }

        init(_ kind: Kind, _ message: String) {
            self.kind = kind
            self.message = message
        }
    }

    /// The directory whose files are changed.
    public let directory: String
    /// What is loaded to see whether a change may be made.
    public let directories: PolicyDirectories

    /// - Parameter directory: nil takes /etc/qubes/policy.d, which files of /run may hide.
    public init(directory: String? = CurrentProcess.variable("QREXEC_POLICY_DIR")) {
        self.init(directory.map { PolicyDirectories([$0]) } ?? PolicyDirectories())
    }

    /// - Parameter directories: at least one; files of the last one are changed.
    public init(_ directories: PolicyDirectories) {
        self.directories = directories
        directory = directories.directories.last!
    }

    /// A file of the policy by the name that people and services use.
    public struct File: Sendable, Equatable {
        /// Without `.policy` and without `include/`.
        public let name: String
        public let isInclude: Bool

        public init(_ name: String, isInclude: Bool) throws(Failure) {
            for byte in name.utf8 where !isArgumentCharacter(byte) {
                throw Failure(.protocolError, "the argument has a character that none may have")
            }
            if name.isEmpty { throw Failure(.protocolError, "expected the name of a file") }
            for byte in name.utf8 where !Self.isAllowed(byte, isInclude: isInclude) {
                throw Failure(
                    .invalidName,
                    "'\(name)': expected "
                        + (isInclude
                            ? "letters" : "lower-case letters, which is all that is loaded")
                        + ", digits, '_' and '-'")
            }
            if name.utf8.count > 200 { throw Failure(.invalidName, "the name is too long") }
            self.name = name
            self.isInclude = isInclude
        }

        /// A policy file's name must be one that the loader takes.
        private static func isAllowed(_ byte: UInt8, isInclude: Bool) -> Bool {
            if byte == UInt8(ascii: ".") || byte == UInt8(ascii: "+") { return false }
            return PolicyFileName.isAllowed(byte) || isInclude
        }

        /// Below the policy directory.
        public var path: String { isInclude ? "include/" + name : name + PolicyFileName.suffix }
    }

    // MARK: Reading

    /// Names of the files, sorted, as the services give them.
    public func list(includes: Bool) throws(Failure) -> [String] {
        do throws(Errno) {
            let folder = includes ? directory + "/include" : directory
            let entries = try DiskPolicyFiles().entries(of: folder)
            let names = entries.filter { $0.isRegularFile && !$0.name.hasPrefix(".") }.map(\.name)
            if includes { return names.sorted() }
            return names.filter { $0.hasSuffix(PolicyFileName.suffix) }
                .map { String($0.dropLast(PolicyFileName.suffix.count)) }.sorted()
        } catch .noSuchFileOrDirectory where includes {
            return []
        } catch {
            throw Failure(.failed, "\(directory): \(error)")
        }
    }

    /// The contents of a file.
    public func get(_ file: File) throws(Failure) -> [UInt8] {
        try checkPath(file)
        do throws(Errno) {
            return try DiskPolicyFiles().read(path(file), limit: PolicyLimits.fileSize)
        } catch .noSuchFileOrDirectory {
            throw Failure(.notFound, "there is no file '\(file.path)'")
        } catch {
            throw Failure(.failed, "\(path(file)): \(error)")
        }
    }

    /// `sha256:` and the digest of a file's contents.
    public static func token(_ contents: [UInt8]) -> String {
        "sha256:" + SHA256.hexadecimal(contents)
    }

    /// The files with rules about a service, in the order of the policy.
    public func files(about service: String) throws(Failure) -> [String] {
        guard !service.isEmpty, service.utf8.allSatisfy(isServiceCharacter) else {
            throw Failure(.protocolError, "expected a service without an argument")
        }
        let result = Policy.load(directories)
        try check(result)
        var names: [String] = []
        for rule in 0..<result.policy.ruleCount {
            let description = result.policy.description(of: rule)
            if description.service != service && description.service != "*" { continue }
            let file = description.location.file
            let isOwn = directories.directories.contains { file.path == $0 + "/" + file.display }
            let name =
                isOwn && file.display.hasSuffix(PolicyFileName.suffix)
                ? String(file.display.dropLast(PolicyFileName.suffix.count)) : file.path
            if !names.contains(name) { names.append(name) }
        }
        return names
    }

    // MARK: Changing

    /// Replaces or makes a file.
    ///
    /// - Parameter token: of the file as the caller knows it; `new` when there must be none, `any`
    ///   when it does not matter.
    public func replace(
        _ file: File, with contents: [UInt8], token: String
    ) throws(Failure) {
        let lock = try self.lock()
        try checkPath(file)
        try checkToken(token, file)
        try checkChange([path(file): contents])
        if file.isInclude { try checkAlone(file, contents) }
        do throws(Errno) {
            if file.isInclude {
                try FileChange.makeDirectories(directory + "/include", mode: 0o775)
            }
            try FileChange.replace(
                path(file), with: contents, mode: 0o664, group: UserGroup.number(of: "qubes"))
        } catch {
            throw Failure(.failed, "\(path(file)): \(error)")
        }
        _ = consume lock
    }

    /// Removes a file.
    public func remove(_ file: File, token: String) throws(Failure) {
        let lock = try self.lock()
        try checkPath(file)
        if token == "new" { throw Failure(.token, "a file cannot be both new and removed") }
        _ = try get(file)
        try checkToken(token, file)
        try checkChange([path(file): nil])
        do throws(Errno) {
            try FileChange.remove(path(file))
        } catch {
            throw Failure(.failed, "\(path(file)): \(error)")
        }
        _ = consume lock
    }

    /// Adds one rule for a service and argument that no rule names yet (section 13.5).
    public func register(
        service: String, argument: String, frontend: String, backend: String
    ) throws(Failure) {
        let lock = try self.lock()
        let result = Policy.load(directories)
        try check(result)
        for number in 0..<result.policy.ruleCount {
            let rule = result.policy.description(of: number)
            if rule.service == service && rule.argument == "+" + argument {
                throw Failure(.failed, "there is a rule for \(service)+\(argument) already")
            }
        }
        let file = try File("60-registered-arguments", isInclude: false)
        var contents: [UInt8] = []
        do throws(Failure) {
            contents = try get(file)
        } catch  where error.kind == .notFound {
            contents = []
        }
        if let last = contents.last, last != 0x0A { contents.append(0x0A) }
        contents += Array("\(service) +\(argument) \(frontend) \(backend) allow\n".utf8)
        try checkChange([path(file): contents])
        do throws(Errno) {
            try FileChange.replace(
                path(file), with: contents, mode: 0o664, group: UserGroup.number(of: "qubes"))
        } catch {
            throw Failure(.failed, "\(path(file)): \(error)")
        }
        _ = consume lock
    }

    // MARK: Checks

    public func path(_ file: File) -> String { directory + "/" + file.path }

    private func lock() throws(Failure) -> FileLock {
        do throws(Errno) {
            return try FileLock(directory, wait: true)
        } catch {
            throw Failure(.failed, "\(directory): \(error)")
        }
    }

    /// A link that leads out of the directory is not followed.
    private func checkPath(_ file: File) throws(Failure) {
        guard let resolved = try? FileChange.resolve(path(file)),
            let root = try? FileChange.resolve(directory)
        else {
            // A dangling link is replaced or removed itself, which is fine within the directory.
            return
        }
        if !resolved.hasPrefix(root + "/") {
            throw Failure(.invalidPath, "'\(file.path)' leads out of the policy directory")
        }
    }

    private func checkToken(_ token: String, _ file: File) throws(Failure) {
        if token == "any" { return }
        let isExact =
            token.hasPrefix("sha256:") && token.utf8.count == 71
            && token.utf8.dropFirst(7).allSatisfy {
                (0x30...0x39).contains($0) || (0x61...0x66).contains($0)
            }
        guard token == "new" || isExact else {
            throw Failure(.token, "expected sha256: with 64 digits, new or any")
        }
        let current: [UInt8]
        do throws(Failure) {
            current = try get(file)
        } catch  where error.kind == .notFound {
            if token == "new" { return }
            throw Failure(.token, "there is no file '\(file.path)'")
        }
        if token == "new" { throw Failure(.token, "the file '\(file.path)' exists") }
        if token != Self.token(current) {
            throw Failure(.token, "the file '\(file.path)' has changed")
        }
    }

    /// Loads the whole policy as it would be.
    public func checkChange(_ changes: [String: [UInt8]?]) throws(Failure) {
        let files = OverlayPolicyFiles(DiskPolicyFiles(), changes: changes)
        try check(Policy.load(directories, files: files))
    }

    /// A file that no other includes yet must be one that some could include: in the present format,
    /// or in the old one, of which only its place would tell.
    private func checkAlone(_ file: File, _ contents: [UInt8]) throws(Failure) {
        let files = OverlayPolicyFiles(DiskPolicyFiles(), changes: [path(file): contents])
        let all = Policy.load(directories, files: files).policy.files
        if all.contains(where: { $0.path == path(file) }) { return }
        let results = [false, true].map { oldFormat in
            Policy.loadFile(
                path(file), contents: contents, oldFormat: oldFormat, directories: directories)
        }
        if results.contains(where: \.isUsable) { return }
        // The format with fewer errors is the one that was meant.
        try check(results[results[0].errors.count <= results[1].errors.count ? 0 : 1])
    }

    private func check(_ result: PolicyLoadResult) throws(Failure) {
        if result.isUsable { return }
        let errors = result.errors.prefix(20).map(\.description)
        throw Failure(.syntax, errors.joined(separator: "\n"))
    }
}

/// The characters of services.
func isServiceCharacter(_ byte: UInt8) -> Bool {
    isArgumentCharacter(byte) && byte != UInt8(ascii: "+")
}

/// The characters of services and their arguments.
func isArgumentCharacter(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."),
        UInt8(ascii: "_"), UInt8(ascii: "+"):
        true
    default: false
    }
}
