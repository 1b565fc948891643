import Glibc
import LinuxSystem
import SystemPackage

/// Why a file of this side cannot be used, for the person who named it.
struct FileProblem: Error, Equatable {
    /// The path as the person knows it.
    var path: [UInt8]
    var text: String

    init(_ path: [UInt8], _ text: String) {
        self.path = path
        self.text = text
    }

    init(_ path: [UInt8], _ error: Errno) { self.init(path, error.message) }

    var line: String { "\(displayable(path)): \(text)" }
}

/// Goes through one argument of a copy: a file, or a directory with everything in it, depth first,
/// following no link. It keeps one open directory per level and a part of its listing.
struct TreeWalk: ~Copyable {
    enum Step: Equatable {
        /// The next file, link or directory: `path` and `leaf` say which.
        case entry(FileKind)
        /// The end of a directory that `enter` went into; `path` is its own again.
        case leave(FileAttributes)
        case end
    }

    /// An open directory and the part of its listing that was read.
    private final class Level {
        let descriptor: Descriptor
        let attributes: FileAttributes
        /// Bytes of the path that are this directory's.
        let pathLength: Int
        var records: [UInt8]
        var filled = 0
        var position = 0

        init(
            _ descriptor: consuming Descriptor, _ attributes: FileAttributes, _ pathLength: Int,
            buffer: Int
        ) {
            self.descriptor = descriptor
            self.attributes = attributes
            self.pathLength = pathLength
            records = [UInt8](repeating: 0, count: buffer)
        }
    }

    private let base: Descriptor
    private var levels: [Level] = []
    private var started = false
    /// The path as sent, with its NUL: the argument's own name first.
    private(set) var path: [UInt8]
    /// Where the entry's own name begins in `path`.
    private(set) var leaf = 0
    /// What is put before `path` to show it to the person.
    private let shownPrefix: [UInt8]

    /// - Parameter argument: a path as given on the command line.
    init(_ argument: String) throws(FileProblem) {
        let place = try ArgumentPlace(argument)
        do throws(Errno) {
            base = try Descriptor.open(
                bytes: place.directory + [0], Descriptor.pathOnly | O_DIRECTORY)
        } catch {
            throw FileProblem(Array(argument.utf8), error)
        }
        path = place.name + [0]
        shownPrefix = place.shownPrefix
    }

    /// The entry's path as the person knows it.
    var shownPath: [UInt8] { shownPrefix + path.dropLast() }

    /// Does something with the directory that the entry is in.
    func inDirectory<Result: ~Copyable>(
        _ body: (borrowing Descriptor) throws(Errno) -> Result
    ) throws(FileProblem) -> Result {
        do throws(Errno) {
            if let level = levels.last { return try body(level.descriptor) }
            return try body(base)
        } catch {
            throw FileProblem(shownPath, error)
        }
    }

    /// The status of the entry itself.
    func attributes() throws(FileProblem) -> FileAttributes {
        let (path, leaf) = (self.path, self.leaf)
        return try inDirectory { dir throws(Errno) in try dir.status(of: path, from: leaf) }
    }

    /// Goes into the entry, which is a directory: its contents come next, then `leave`.
    mutating func enter() throws(FileProblem) -> FileAttributes {
        let (path, leaf) = (self.path, self.leaf)
        let flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW
        let directory = try inDirectory { dir throws(Errno) in
            try dir.open(entry: path, from: leaf, flags)
        }
        let attributes: FileAttributes
        do throws(Errno) {
            attributes = try directory.status()
        } catch {
            throw FileProblem(shownPath, error)
        }
        // Deep levels get a small buffer, so that depth costs little memory.
        let buffer = levels.count < 16 ? 32 * 1024 : 1024
        levels.append(Level(directory, attributes, path.count - 1, buffer: buffer))
        return attributes
    }

    /// The next step.
    mutating func next() throws(FileProblem) -> Step {
        if !started {
            started = true
            return .entry(try attributes().kind)
        }
        while let level = levels.last {
            path.removeLast(path.count - level.pathLength)
            if try !fill(level) {
                levels.removeLast()
                path.append(0)
                leaf = (path.lastIndex(of: slash) ?? -1) + 1
                return .leave(level.attributes)
            }
            if let type = takeRecord(level) { return .entry(try kind(ofType: type)) }
        }
        return .end
    }

    /// Makes sure that there is a record; false at the end of the directory.
    private mutating func fill(_ level: Level) throws(FileProblem) -> Bool {
        if level.position < level.filled { return true }
        level.position = 0
        do throws(Errno) {
            level.filled = try level.descriptor.readDirectory(into: &level.records)
        } catch {
            throw FileProblem(shownPrefix + path, error)
        }
        return level.filled > 0
    }

    /// Adds the name of the next record (inode, offset, u16 length, u8 type, name with NUL) to the
    /// path and returns its type; nil for `.` and `..`, which leave the path without its NUL.
    private mutating func takeRecord(_ level: Level) -> UInt8? {
        let start = level.position
        level.position += Int(level.records[start + 16]) | Int(level.records[start + 17]) << 8
        var end = start + 19
        while level.records[end] != 0 { end += 1 }
        let name = level.records[(start + 19)..<end]
        if name.elementsEqual([dot]) || name.elementsEqual([dot, dot]) { return nil }
        path.append(slash)
        leaf = path.count
        path += name
        path.append(0)
        return level.records[start + 18]
    }

    private func kind(ofType type: UInt8) throws(FileProblem) -> FileKind {
        switch type {
        case 8: return .regular
        case 4: return .directory
        case 10: return .symbolicLink
        // The file system does not say.
        case 0: return try attributes().kind
        default: return .special
        }
    }
}

/// Where an argument lies: the directory that it is opened in, and the name that it is sent by.
struct ArgumentPlace: Equatable {
    var directory: [UInt8]
    var name: [UInt8]
    /// What makes the name a path that the person knows.
    var shownPrefix: [UInt8]

    init(_ argument: String) throws(FileProblem) {
        var path = Array(argument.utf8)
        while path.count > 1 && path.last == slash { path.removeLast() }
        var last = path[((path.lastIndex(of: slash) ?? -1) + 1)...]
        if last.elementsEqual([dot]) || last.elementsEqual([dot, dot]) {
            // These have no name of their own: take the one that the directory really has.
            do throws(Errno) {
                path = try Descriptor.realPath(path + [0])
            } catch {
                throw FileProblem(Array(argument.utf8), error)
            }
            last = path[((path.lastIndex(of: slash) ?? -1) + 1)...]
        }
        if last.isEmpty {
            let text = argument.isEmpty ? "an empty name" : "the root directory has no name to send"
            throw FileProblem(Array(argument.utf8), text)
        }
        name = Array(last)
        shownPrefix = Array(path[..<last.startIndex])
        directory = shownPrefix.isEmpty ? [dot] : shownPrefix
    }
}
