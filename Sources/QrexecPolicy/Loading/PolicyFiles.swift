public import SystemPackage

/// Where policy files come from: the disk, or the disk with a change that is only tried.
public protocol PolicyFiles {
    /// The names of all entries of a directory, with whether each is a regular file (links are
    /// followed).
    func entries(of directory: String) throws(Errno) -> [PolicyDirectoryEntry]

    /// The bytes of a regular file; `EFBIG` when there are more than `limit`.
    func read(_ path: String, limit: Int) throws(Errno) -> [UInt8]
}

public struct PolicyDirectoryEntry: Sendable, Hashable {
    public let name: String
    public let isRegularFile: Bool

    public init(name: String, isRegularFile: Bool) {
        self.name = name
        self.isRegularFile = isRegularFile
    }
}

/// Policy files that exist only in memory, by absolute path.
public struct MemoryPolicyFiles: PolicyFiles {
    private let contents: [String: [UInt8]]
    private let directories: Set<String>

    /// - Parameter directories: those that exist though no file is in them.
    public init(_ files: [String: [UInt8]], directories: [String] = []) {
        contents = files
        var parents = Set(directories)
        for path in files.keys { parents.insert(parentPath(path)) }
        self.directories = parents
    }

    public func entries(of directory: String) throws(Errno) -> [PolicyDirectoryEntry] {
        guard directories.contains(directory) else { throw .noSuchFileOrDirectory }
        return contents.keys.filter { parentPath($0) == directory }
            .map { PolicyDirectoryEntry(name: lastPathComponent($0), isRegularFile: true) }
    }

    public func read(_ path: String, limit: Int) throws(Errno) -> [UInt8] {
        guard let bytes = contents[path] else {
            throw directories.contains(path) ? .isDirectory : .noSuchFileOrDirectory
        }
        if bytes.count > limit { throw .fileTooLarge }
        return bytes
    }
}

/// Other policy files with some of them replaced, added or taken away: what would be in force.
public struct OverlayPolicyFiles: PolicyFiles {
    private let base: any PolicyFiles
    private let changes: [String: [UInt8]?]

    /// - Parameter changes: new contents by absolute path; nil takes the file away.
    public init(_ base: any PolicyFiles, changes: [String: [UInt8]?]) {
        self.base = base
        self.changes = changes
    }

    public func entries(of directory: String) throws(Errno) -> [PolicyDirectoryEntry] {
        var entries = try base.entries(of: directory)
        for (path, contents) in changes where parentPath(path) == directory {
            let name = lastPathComponent(path)
            entries.removeAll { $0.name == name }
            if contents != nil {
                entries.append(PolicyDirectoryEntry(name: name, isRegularFile: true))
            }
        }
        return entries
    }

    public func read(_ path: String, limit: Int) throws(Errno) -> [UInt8] {
        guard let change = changes[path] else { return try base.read(path, limit: limit) }
        guard let bytes = change else { throw .noSuchFileOrDirectory }
        if bytes.count > limit { throw .fileTooLarge }
        return bytes
    }
}

/// A path without its last component; `/` of a path with one.
func parentPath(_ path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
}

func lastPathComponent(_ path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return path }
    return String(path[path.index(after: slash)...])
}

/// A path with `.`, empty components and, in the text, `..` worked out.
func normalizedPath(_ path: String) -> String {
    var components: [Substring] = []
    for component in path.split(separator: "/") where component != "." {
        if component == "..", let last = components.last, last != ".." {
            components.removeLast()
        } else if component != ".." || !path.hasPrefix("/") {
            components.append(component)
        }
    }
    return (path.hasPrefix("/") ? "/" : "") + components.joined(separator: "/")
}
