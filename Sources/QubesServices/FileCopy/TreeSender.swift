import Glibc
import LinuxSystem
import SystemPackage

/// The sending side of a file copy (specification 15): reads trees, sends the stream, and succeeds
/// only when the receiver has confirmed every byte.
struct TreeSender: ~Copyable {
    struct Options {
        /// Leaves symbolic links out.
        var ignoreLinks = false
        /// Told about files that are not sent because they are none (sockets, devices, pipes).
        var warn: (String) -> Void = { _ in }
    }

    private let options: Options
    private var stream: SendStream
    private var progress: CopyProgress
    private var record: SentRecord?
    private var argument: UInt32 = 0

    /// How often a small file is read again when it changes at that moment.
    private static let attempts = 3

    init(
        _ carrier: any StreamCarrier, options: Options, progress: consuming CopyProgress,
        record: consuming SentRecord? = nil
    ) {
        self.options = options
        self.progress = progress
        self.record = record
        stream = SendStream(carrier)
    }

    /// Sends the arguments and waits for the answer.
    mutating func send(_ arguments: [String]) throws(SendFailure) {
        for (index, path) in arguments.enumerated() {
            argument = UInt32(index)
            try send(path)
        }
        try stream.finish()
        progress.finish()
        try recording { record throws(Errno) in try record.confirm() }
    }

    private mutating func send(_ path: String) throws(SendFailure) {
        var walk: TreeWalk
        do throws(FileProblem) { walk = try TreeWalk(path) } catch { throw .file(error) }
        while true {
            let step: TreeWalk.Step
            do throws(FileProblem) { step = try walk.next() } catch { throw .file(error) }
            switch step {
            case .end: return
            case .leave(let attributes):
                try stream.put(Self.header(walk.path, attributes, size: 0), walk.path)
                try note(walk.path, attributes)
            case .entry(.regular): try sendFile(walk)
            case .entry(.directory):
                try checkLength(walk)
                let attributes: FileAttributes
                do throws(FileProblem) { attributes = try walk.enter() } catch {
                    throw .file(error)
                }
                try stream.put(Self.header(walk.path, attributes, size: 0), walk.path)
            case .entry(.symbolicLink): if !options.ignoreLinks { try sendLink(walk) }
            case .entry(.special):
                let text = "not sent, because it is a socket, pipe or device"
                options.warn(FileProblem(walk.shownPath, text).line)
            }
        }
    }

    private static func header(
        _ name: [UInt8], _ attributes: FileAttributes, size: UInt64
    ) -> EntryHeader {
        EntryHeader(
            nameLength: UInt32(name.count), mode: attributes.mode, size: size,
            accessed: attributes.accessed, modified: attributes.modified)
    }

    private func checkLength(_ walk: borrowing TreeWalk) throws(SendFailure) {
        if walk.path.count > NameRules.maximumLength {
            throw .file(FileProblem(walk.shownPath, "the path is too long to be sent"))
        }
    }

    /// Does something with the current file, and names it when that fails.
    private static func at<Result: ~Copyable>(
        _ walk: borrowing TreeWalk, _ body: () throws(Errno) -> Result
    ) throws(SendFailure) -> Result {
        do throws(Errno) { return try body() } catch {
            throw .file(FileProblem(walk.shownPath, error))
        }
    }

    // MARK: Files

    /// What became of one attempt to send a file.
    private struct Attempt {
        var bytes: UInt64 = 0
        /// Whether the file had as many bytes as its header says.
        var isWhole = false
        /// Whether a part of it is under way already.
        var wasFlushed = false
    }

    private mutating func sendFile(_ walk: borrowing TreeWalk) throws(SendFailure) {
        try checkLength(walk)
        let path = walk.path
        let file = try open(walk)
        // Everything of a small file must lie in the buffer before any of it is sent.
        if stream.room < EntryHeader.length + path.count { try stream.flush() }
        for attempt in 1...Self.attempts {
            let attributes = try Self.at(walk) { () throws(Errno) in try file.status() }
            if attributes.kind != .regular { break }
            let mark = stream.used
            let sent = try sendContents(file, walk, attributes)
            let after = try Self.at(walk) { () throws(Errno) in try file.status() }
            if sent.isWhole && after.size == attributes.size
                && after.modified == attributes.modified
            {
                try note(path, attributes)
                progress.update()
                return
            }
            if sent.wasFlushed || attempt == Self.attempts { break }
            stream.takeBack(to: mark)
            progress.takeBack(sent.bytes)
            _ = try Self.at(walk) { () throws(Errno) in try file.seek(0, .start) }
        }
        let text = "changed while it was read; the copy stopped here, try again"
        throw .file(FileProblem(walk.shownPath, text))
    }

    private func open(_ walk: borrowing TreeWalk) throws(SendFailure) -> Descriptor {
        let flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY
        let (path, leaf) = (walk.path, walk.leaf)
        do throws(FileProblem) {
            return try walk.inDirectory { dir throws(Errno) in
                try dir.open(entry: path, from: leaf, flags)
            }
        } catch {
            throw .file(error)
        }
    }

    /// Sends header, name and contents, but leaves the last bytes in the buffer: they may go only
    /// when the file has not changed until then.
    private mutating func sendContents(
        _ file: borrowing Descriptor, _ walk: borrowing TreeWalk, _ attributes: FileAttributes
    ) throws(SendFailure) -> Attempt {
        var sent = Attempt()
        try stream.put(Self.header(walk.path, attributes, size: attributes.size), walk.path)
        var holes = HoleFinder(attributes)
        while sent.bytes < attributes.size {
            if stream.room == 0 {
                try stream.flush()
                sent.wasFlushed = true
                progress.update()
            }
            let place = try Self.at(walk) { () throws(Errno) in
                try holes.place(at: sent.bytes, in: file)
            }
            let limit = min(place.end, attributes.size) - sent.bytes
            var count: Int
            if place.isHole {
                count = stream.putZeros(limit: limit)
            } else {
                do throws(Errno) {
                    count = try stream.put(from: file, limit: limit)
                } catch {
                    throw .file(FileProblem(walk.shownPath, error))
                }
                if count == 0 { return sent }
            }
            sent.bytes += UInt64(count)
            progress.add(UInt64(count))
        }
        sent.isWhole = true
        return sent
    }

    // MARK: Links

    private mutating func sendLink(_ walk: borrowing TreeWalk) throws(SendFailure) {
        try checkLength(walk)
        let (path, leaf) = (walk.path, walk.leaf)
        let target: [UInt8]
        let attributes: FileAttributes
        do throws(FileProblem) {
            attributes = try walk.attributes()
            target = try walk.inDirectory { dir throws(Errno) in
                try dir.target(of: path, from: leaf, limit: NameRules.maximumLength)
            }
        } catch {
            throw .file(error)
        }
        try stream.put(Self.header(path, attributes, size: UInt64(target.count)), path)
        try stream.put(target)
        try note(path, attributes)
    }

    // MARK: Record

    private mutating func note(
        _ path: [UInt8], _ attributes: FileAttributes
    ) throws(SendFailure) {
        let argument = self.argument
        try recording { record throws(Errno) in
            try record.add(argument: argument, path: path, attributes)
        }
    }

    private mutating func recording(
        _ body: (inout SentRecord) throws(Errno) -> Void
    ) throws(SendFailure) {
        if record == nil { return }
        do throws(Errno) { try body(&record!) } catch { throw .record(error) }
    }
}

/// Which parts of a file are holes, so that these need not be read.
private struct HoleFinder {
    struct Place {
        let isHole: Bool
        let end: UInt64
    }

    private var current: Place
    private let size: UInt64

    init(_ attributes: FileAttributes) {
        size = attributes.size
        let isSparse = attributes.allocated < attributes.size
        current = Place(isHole: false, end: isSparse ? 0 : attributes.size)
    }

    /// What is at an offset, which is that of the open file too when it is not in a hole.
    mutating func place(
        at offset: UInt64, in file: borrowing Descriptor
    ) throws(Errno) -> Place {
        if offset < current.end { return current }
        let data: UInt64
        do throws(Errno) {
            data = UInt64(try file.seek(Int64(offset), .data))
        } catch .noSuchAddressOrDevice {
            // Nothing but a hole up to the end.
            data = size
        } catch .invalidArgument {
            // A file system that knows of no holes.
            data = offset
        }
        if data > offset {
            current = Place(isHole: true, end: data)
            return current
        }
        let hole = (try? file.seek(Int64(offset), .hole)).map(UInt64.init) ?? size
        try file.seek(Int64(offset), .start)
        current = Place(isHole: false, end: max(hole, offset + 1))
        return current
    }
}
