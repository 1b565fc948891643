import Glibc
import LinuxSystem
import SystemPackage

/// What the receiver does when a name exists already. It never overwrites.
public enum ExistingFile: String, Sendable {
    /// The transfer ends with `EEXIST`.
    case refuse
    /// The new file is called `name (1).extension`, or the next number that is free.
    case rename
}

/// Creates files, directories and links beneath one directory, never outside of it and never in
/// place of something else (specification 15.3). Names must have passed `NameRules`.
struct TreeWriter: ~Copyable {
    private let root: SharedDescriptor
    /// `/proc/self/fd`, for kernels that name an unnamed file only through it.
    private let descriptors: SharedDescriptor?
    private let existing: ExistingFile

    /// The directory of the last entry, which is most often that of the next one too.
    private var parentPath: [UInt8] = []
    private var parent: SharedDescriptor?
    /// The file that is being written.
    private var file: SharedDescriptor?
    private var written = Written()
    /// Directories that contain the last entry, outermost first: bounded by the longest name.
    private var entered: [EnteredDirectory] = []
    private var enteredPath: [UInt8] = []
    /// Whether new files of this directory get the permissions that are asked for; nil when none
    /// was made there yet. A default access list would take some away.
    private var keepsModes: Bool?
    /// Whether the file system has files without a name.
    private var hasUnnamedFiles = true

    /// What is known of the open file.
    private struct Written {
        /// Its name if it already has it and must be removed should it not be completed.
        var name: [UInt8]?
        /// Where its name begins in its path.
        var leaf = 0
        /// Whether it has its permissions already.
        var hasMode = false
        var position: UInt64 = 0
        var endsWithHole = false
    }

    private struct EnteredDirectory {
        /// Bytes of `enteredPath` that are its name.
        let length: Int
        let header: EntryHeader
        /// Whether it was there before this entry.
        let existed: Bool
    }

    /// - Parameter descriptors: what `openDescriptors` gave, for a process that has left the
    ///   machine's file system since.
    init(
        root: consuming Descriptor, existing: ExistingFile,
        descriptors: SharedDescriptor? = TreeWriter.openDescriptors()
    ) {
        self.root = SharedDescriptor(root)
        self.existing = existing
        self.descriptors = descriptors
    }

    /// `/proc/self/fd`; nil where there is none.
    static func openDescriptors() -> SharedDescriptor? {
        try? SharedDescriptor(
            Descriptor.open("/proc/self/fd", Descriptor.pathOnly | O_DIRECTORY))
    }

    // MARK: Files

    /// Begins a file that gets its name when it is complete.
    ///
    /// - Throws: `EEXIST` when the name is taken and such files are refused; for small files this
    ///   comes at their end.
    mutating func beginFile(_ name: [UInt8], _ header: EntryHeader) throws(Errno) {
        let leaf = try enterParent(of: name)
        let isSmall = header.size <= Self.smallFile
        if existing == .refuse && !isSmall && isTaken(name, leaf) { throw .fileExists }
        if hasUnnamedFiles && !(isSmall && isInNewDirectory) {
            do throws(Errno) {
                written = Written(name: nil, leaf: leaf)
                try openUnnamed(header.mode)
                return
            } catch .notSupportedOnSocket, .isDirectory, .invalidArgument {
                hasUnnamedFiles = false
            }
        }
        let flags = O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW
        var candidate = 0
        while true {
            let (target, from) = Self.numbered(name, leaf, candidate)
            do throws(Errno) {
                file = SharedDescriptor(
                    try inParent { dir throws(Errno) in
                        try dir.open(entry: target, from: from, flags)
                    })
                written = Written(name: Array(target[from...]), leaf: leaf)
                return
            } catch .fileExists where existing == .rename && candidate < Self.maximumNumber {
                candidate += 1
            }
        }
    }

    /// Opens a file without a name. Nobody can reach it yet, so it may have its permissions at once;
    /// only set-uid and set-gid do not outlast the writing.
    private mutating func openUnnamed(_ mode: UInt32) throws(Errno) {
        let permissions = keepsModes == nil ? 0o777 : mode & 0o777
        let new = SharedDescriptor(
            try inParent { dir throws(Errno) in try dir.openUnnamed(mode: permissions) })
        if keepsModes == nil {
            keepsModes = try new.descriptor.status().mode & 0o777 == permissions
        } else {
            written.hasMode = keepsModes == true && mode & 0o7000 == 0
        }
        file = new
    }

    /// Writes the next bytes of the file. Long runs of zeros become holes.
    mutating func write(_ bytes: Span<UInt8>) throws(Errno) {
        var start = 0
        while start < bytes.count {
            let rest = bytes.extracting(start...)
            let zeros = Self.leadingZeros(rest)
            if zeros >= Self.smallestHole {
                try skip(zeros)
                start += zeros
            } else {
                let count = Self.untilHole(rest, from: zeros)
                try writeData(rest.extracting(..<count))
                start += count
            }
        }
    }

    private mutating func skip(_ count: Int) throws(Errno) {
        written.position += UInt64(count)
        written.endsWithHole = true
        try file?.descriptor.seek(Int64(written.position), .start)
    }

    private mutating func writeData(_ bytes: Span<UInt8>) throws(Errno) {
        if let file { try Descriptor.writeAll(file.descriptor.number, bytes) }
        written.position += UInt64(bytes.count)
        written.endsWithHole = false
    }

    /// Completes the file: permissions, times, name.
    mutating func endFile(_ name: [UInt8], _ header: EntryHeader) throws(Errno) {
        guard let file else { return }
        self.file = nil
        do throws(Errno) {
            if written.endsWithHole { try file.descriptor.setSize(written.position) }
            try file.descriptor.setTimes(accessed: header.accessed, modified: header.modified)
            if !written.hasMode { try file.descriptor.setMode(header.mode) }
            if written.name == nil { try link(file.descriptor, name, written.leaf) }
            written.name = nil
        } catch {
            removeNamed()
            throw error
        }
    }

    private mutating func link(
        _ descriptor: borrowing Descriptor, _ name: [UInt8], _ leaf: Int
    ) throws(Errno) {
        var candidate = 0
        while true {
            let (target, from) = Self.numbered(name, leaf, candidate)
            do throws(Errno) {
                let proc = descriptors?.descriptor.number ?? -1
                try inParent { dir throws(Errno) in
                    try dir.link(descriptor, as: target, from: from, descriptors: proc)
                }
                return
            } catch .fileExists where existing == .rename && candidate < Self.maximumNumber {
                candidate += 1
            }
        }
    }

    /// Forgets the file that is being written; nothing of it stays.
    mutating func abandonFile() {
        file = nil
        removeNamed()
    }

    private mutating func removeNamed() {
        guard let name = written.name else { return }
        try? inParent { dir throws(Errno) in try dir.remove(name, directory: false) }
        written.name = nil
    }

    // MARK: Links

    /// - Parameters:
    ///   - name: with its NUL.
    ///   - target: with its NUL; has passed `NameRules`.
    mutating func makeLink(
        _ name: [UInt8], to target: [UInt8], _ header: EntryHeader
    ) throws(Errno) {
        let leaf = try enterParent(of: name)
        var candidate = 0
        while true {
            let (link, from) = Self.numbered(name, leaf, candidate)
            do throws(Errno) {
                try inParent { dir throws(Errno) in
                    try dir.makeSymbolicLink(link, from: from, to: target)
                    try dir.setTimes(
                        of: link, from: from, accessed: header.accessed, modified: header.modified)
                }
                return
            } catch .fileExists where existing == .rename && candidate < Self.maximumNumber {
                candidate += 1
            }
        }
    }

    // MARK: Directories

    /// Takes one of the two entries of a directory: the first, before its contents, creates it or
    /// enters the one that is there; the second, after them, sets permissions and times.
    mutating func directory(_ name: [UInt8], _ header: EntryHeader) throws(Errno) {
        let length = name.count - 1
        if let last = entered.last, last.length == length,
            enteredPath.elementsEqual(name[..<length])
        {
            entered.removeLast()
            try apply(header, to: name)
            truncateEnteredPath()
            return
        }
        try leaveDirectories(notContaining: name)
        let leaf = try enterParent(of: name)
        var existed = false
        do throws(Errno) {
            try inParent { dir throws(Errno) in
                try dir.makeDirectory(name, from: leaf, mode: 0o700)
            }
        } catch .fileExists {
            let status = try inParent { dir throws(Errno) in try dir.status(of: name, from: leaf) }
            if status.kind != .directory { throw .fileExists }
            existed = true
        }
        enteredPath = Array(name[..<length])
        entered.append(EnteredDirectory(length: length, header: header, existed: existed))
    }

    /// Leaves the directories that the next entry is not in. Some senders send the second entry of
    /// a directory much later, when it is there already: it then counts as entered anew, and what
    /// it says is set here.
    mutating func leaveDirectories(notContaining name: [UInt8]) throws(Errno) {
        while let last = entered.last {
            let contains =
                name.count > last.length && name[last.length] == slash
                && name[..<last.length].elementsEqual(enteredPath[..<last.length])
            if contains { return }
            entered.removeLast()
            if last.existed { try apply(last.header, to: enteredPath[..<last.length] + [0]) }
            truncateEnteredPath()
        }
    }

    /// Leaves all directories: the stream is complete.
    mutating func finish() throws(Errno) { try leaveDirectories(notContaining: [0]) }

    private mutating func truncateEnteredPath() {
        enteredPath.removeLast(enteredPath.count - (entered.last?.length ?? 0))
    }

    private func apply(_ header: EntryHeader, to name: [UInt8]) throws(Errno) {
        let directory = try root.descriptor.openBeneath(name, O_RDONLY | O_DIRECTORY | O_NONBLOCK)
        try directory.setTimes(accessed: header.accessed, modified: header.modified)
        try directory.setMode(header.mode)
    }

    /// Makes everything that was written last, also over a loss of power.
    func makeDurable() throws(Errno) {
        // The root may be open for its place only, which cannot be flushed.
        let directory = try root.descriptor.open(relative: ".", O_RDONLY | O_DIRECTORY)
        try directory.syncFileSystem()
    }

    /// Bytes that may still be written.
    func freeSpace() throws(Errno) -> UInt64 { try root.descriptor.freeSpace() }

    /// Bytes up to which a file is received before its name is tried: asking first costs more. And
    /// up to which a file of a directory that is new itself has its name from the beginning, without
    /// permissions until it is complete: that costs a third less than naming it afterwards, and only
    /// a receiver that is killed in that moment leaves it, in a tree that is incomplete anyway.
    private static var smallFile: UInt64 { 128 * 1024 }

    /// Whether the last entry's directory was made by this transfer.
    private var isInNewDirectory: Bool {
        guard let last = entered.last, !last.existed else { return false }
        return last.length == parentPath.count
    }

    // MARK: Places

    /// Opens the directory that an entry is in, unless it is open from the last entry, and returns
    /// where its own name begins.
    private mutating func enterParent(of name: [UInt8]) throws(Errno) -> Int {
        guard let cut = name.lastIndex(of: slash) else {
            if parent != nil { keepsModes = nil }
            parent = nil
            parentPath.removeAll(keepingCapacity: true)
            return 0
        }
        if parentPath.count == cut && parentPath.elementsEqual(name[..<cut]) { return cut + 1 }
        let path = Array(name[..<cut])
        parent = nil
        keepsModes = nil
        parentPath.removeAll(keepingCapacity: true)
        parent = SharedDescriptor(
            try root.descriptor.openBeneath(path + [0], Descriptor.pathOnly | O_DIRECTORY))
        parentPath = path
        return cut + 1
    }

    private func inParent<Result: ~Copyable>(
        _ body: (borrowing Descriptor) throws(Errno) -> Result
    ) throws(Errno) -> Result {
        try body((parent ?? root).descriptor)
    }

    private func isTaken(_ name: [UInt8], _ leaf: Int) -> Bool {
        (try? inParent { dir throws(Errno) in try dir.status(of: name, from: leaf) }) != nil
    }

    // MARK: Numbers in names

    private static var maximumNumber: Int { 9999 }

    /// The name itself for number 0; else with ` (number)` before its extension.
    static func numbered(
        _ name: [UInt8], _ leaf: Int, _ number: Int
    ) -> (name: [UInt8], from: Int) {
        if number == 0 { return (name, leaf) }
        var stem = name[leaf..<(name.count - 1)]
        var tail: ArraySlice<UInt8> = []
        if let cut = stem.lastIndex(of: dot), cut > leaf {
            tail = stem[cut...]
            stem = stem[..<cut]
        }
        return (stem + Array(" (\(number))".utf8) + tail + [0], 0)
    }

    // MARK: Holes

    /// Shortest run of zeros that becomes a hole: shorter ones would only scatter the file.
    private static var smallestHole: Int { 32 * 1024 }
    private static var block: Int { 4096 }

    /// Bytes of zeros at the beginning.
    private static func leadingZeros(_ bytes: Span<UInt8>) -> Int {
        // Contents that do not begin with zero are most of them.
        if bytes.count < smallestHole || bytes[0] != 0 { return 0 }
        return bytes.leadingZeros
    }

    /// Bytes up to the next long run of zeros that begins at a block.
    private static func untilHole(_ bytes: Span<UInt8>, from: Int) -> Int {
        var start = (from / block + 1) * block
        while start + smallestHole <= bytes.count {
            if bytes[start] == 0, bytes.extracting(start...).leadingZeros >= smallestHole {
                return start
            }
            start += block
        }
        return bytes.count
    }
}
