import Glibc
import LinuxSystem
import SystemPackage

/// The second half of a move: deletes what a record says was sent and confirmed, and nothing else.
struct MoveCompletion: ~Copyable {
    private let arguments: [String]
    private var place: ArgumentPlace?
    private var placeIndex: UInt32?
    private var base: SharedDescriptor?
    private var parentPath: [UInt8] = []
    private var parent: SharedDescriptor?
    /// Called for each entry that stays, with its path and the reason.
    private let report: (String) -> Void
    /// Entries that stay.
    private(set) var kept = 0

    init(arguments: [String], report: @escaping (String) -> Void) {
        self.arguments = arguments
        self.report = report
    }

    /// Whether the record ends with the receiver's confirmation.
    static func isConfirmed(_ reader: inout SentRecordReader) throws(Errno) -> Bool {
        var last: SentRecordReader.Entry?
        while let entry = try reader.next() { last = entry }
        try reader.rewind()
        return last?.argument == SentRecord.confirmation
    }

    /// Deletes what is still as it was sent. A directory goes only when it is empty by then.
    mutating func delete(_ reader: inout SentRecordReader) throws(Errno) {
        while let entry = try reader.next(), entry.argument != SentRecord.confirmation {
            do throws(FileProblem) {
                try delete(entry)
            } catch {
                kept += 1
                report(error.line)
            }
        }
    }

    private mutating func delete(_ entry: SentRecordReader.Entry) throws(FileProblem) {
        try enterArgument(entry.argument)
        let shown = (place?.shownPrefix ?? []) + entry.path
        let name = entry.path + [0]
        do throws(Errno) {
            let leaf = try enterParent(entry.path)
            let isDirectory = FileKind(mode: entry.mode) == .directory
            try inParent { dir throws(Errno) in
                let now = try dir.status(of: name, from: leaf)
                // ESTALE: what was found is not what was expected.
                guard entry.matches(now) else { throw .staleNFSFileHandle }
                try dir.remove(name, from: leaf, directory: isDirectory)
            }
        } catch .staleNFSFileHandle {
            throw FileProblem(shown, "kept, because it changed after it was sent")
        } catch .directoryNotEmpty {
            throw FileProblem(shown, "kept, because something in it was not sent")
        } catch .noSuchFileOrDirectory {
            // Somebody else removed it: that was to happen anyway.
        } catch {
            throw FileProblem(shown, "kept: \(error.message)")
        }
    }

    private mutating func enterArgument(_ index: UInt32) throws(FileProblem) {
        if placeIndex == index { return }
        guard index < arguments.count else {
            throw FileProblem([], "the record names an argument that was not given")
        }
        let argument = arguments[Int(index)]
        let place = try ArgumentPlace(argument)
        do throws(Errno) {
            base = SharedDescriptor(
                try Descriptor.open(
                    bytes: place.directory + [0], Descriptor.pathOnly | O_DIRECTORY))
        } catch {
            throw FileProblem(Array(argument.utf8), error)
        }
        self.place = place
        placeIndex = index
        parent = nil
        parentPath = []
    }

    /// Opens the directory of an entry, through no link, and returns where its own name begins.
    private mutating func enterParent(_ path: [UInt8]) throws(Errno) -> Int {
        guard let cut = path.lastIndex(of: slash) else {
            parent = nil
            parentPath = []
            return 0
        }
        if parent != nil && parentPath.elementsEqual(path[..<cut]) { return cut + 1 }
        parent = nil
        let directory = Array(path[..<cut])
        if let base {
            let flags = Descriptor.pathOnly | O_DIRECTORY
            parent = SharedDescriptor(try base.descriptor.openBeneath(directory + [0], flags))
        }
        parentPath = directory
        return cut + 1
    }

    private func inParent(
        _ body: (borrowing Descriptor) throws(Errno) -> Void
    ) throws(Errno) {
        if let directory = parent ?? base { try body(directory.descriptor) }
    }
}
