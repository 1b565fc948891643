import Glibc
public import LinuxSystem
import SystemPackage

/// The receiving side of a file copy (specification 15): reads the stream, writes the tree, answers
/// once. Memory does not depend on the tree: one buffer, one name, one link target.
public struct TreeReceiver: ~Copyable {
    /// What the receiver was told by its own side.
    public struct Options: Sendable {
        public var rules = NameRules()
        public var existing = ExistingFile.refuse
        /// Waits before each file until the file system has room for it and this many bytes more;
        /// nil does not wait.
        public var reservedSpace: UInt64?
        /// Bytes of contents and number of entries taken at most; 0 has no limit.
        public var maximumBytes: UInt64 = 0
        public var maximumFiles: UInt64 = 0
        /// Whether links and directories are refused (`--only-regular-files` of dom0).
        public var onlyRegularFiles = false
        /// Called with each name, without NUL.
        public var report: (@Sendable ([UInt8]) -> Void)?

        public init() {}
    }

    /// Why the transfer ended.
    public struct Failure: Error, Sendable, Equatable {
        /// The code of the answer (`TransferResult.code`).
        public var code: UInt32

        public init(code: UInt32) { self.code = code }
        init(_ error: Errno) { code = UInt32(error.rawValue) }
        init(number: Int32) { code = UInt32(number) }
    }

    private let options: Options
    private var writer: TreeWriter
    private var decoder = StreamDecoder()
    private var filled = 0
    private var position = 0
    private var checksum = CRC32()
    private var target: [UInt8] = []
    private var hasName = false
    private var bytes: UInt64 = 0
    private var files: UInt64 = 0

    /// Bytes read at a time: stays in the processor's second cache between the checksum and the
    /// copy to the file.
    private static let bufferSize = 256 * 1024

    /// - Parameter directory: where everything goes.
    public init(into directory: consuming Descriptor, options: Options) {
        self.options = options
        writer = TreeWriter(root: directory, existing: options.existing)
    }

    /// - Parameter descriptors: see `TreeWriter`.
    init(
        into directory: consuming Descriptor, options: Options, descriptors: SharedDescriptor?
    ) {
        self.options = options
        writer = TreeWriter(
            root: directory, existing: options.existing, descriptors: descriptors)
    }

    /// Receives everything that a descriptor gives.
    ///
    /// - Parameter input: the number of a blocking descriptor.
    /// - Returns: the answer to send. With code 0 everything is durable.
    public mutating func receive(from input: Int32) -> TransferResult {
        var code: UInt32 = 0
        do throws(Failure) {
            try run(input)
        } catch {
            code = error.code
            writer.abandonFile()
        }
        let name = hasName ? Array(decoder.name.prefix { $0 != 0 }) : nil
        return TransferResult(code: code, checksum: checksum.value, lastName: name)
    }

    private mutating func run(_ input: Int32) throws(Failure) {
        var buffer = [UInt8](repeating: 0, count: Self.bufferSize)
        while true {
            let start = position
            let event: StreamDecoder.Event
            do throws(StreamDecoder.Failure) {
                event = try decoder.next(buffer.span.extracting(..<filled), position: &position)
            } catch {
                checksum.update(buffer.span.extracting(start..<position))
                // Everything else is found when the name is there.
                if case .nameTooLong = error {} else { hasName = true }
                throw Failure(number: error.errorNumber)
            }
            checksum.update(buffer.span.extracting(start..<position))
            switch event {
            case .needMore: try fill(&buffer, from: input)
            case .entry: try begin()
            case .contents(let range): try take(buffer, range)
            case .entryEnd: try end()
            case .end:
                try files { writer throws(Errno) in
                    try writer.finish()
                    try writer.makeDurable()
                }
                return
            }
        }
    }

    private mutating func fill(
        _ buffer: inout [UInt8], from input: Int32
    ) throws(Failure) {
        position = 0
        filled = 0
        do throws(Errno) {
            filled = try Descriptor.read(input, into: &buffer, at: 0, count: buffer.count)
        } catch {
            throw Failure(error)
        }
        if filled > 0 { return }
        throw Failure(
            code: decoder.isBetweenEntries ? UInt32(EREMOTEIO) : TransferResult.brokenOff)
    }

    private mutating func begin() throws(Failure) {
        hasName = true
        let kind = FileKind(mode: decoder.header.mode)
        options.report?(Array(decoder.name.dropLast()))
        if options.onlyRegularFiles && kind != .regular { throw Failure(number: EINVAL) }
        do throws(NameRules.Violation) {
            try options.rules.check(
                name: decoder.name.span.extracting(..<(decoder.name.count - 1)))
        } catch {
            throw Failure(number: error.errorNumber)
        }
        files += 1
        if options.maximumFiles > 0 && files > options.maximumFiles {
            throw Failure(number: EDQUOT)
        }
        if kind == .regular { try beginFile() }
        if kind == .symbolicLink { target.removeAll(keepingCapacity: true) }
    }

    private mutating func beginFile() throws(Failure) {
        let size = decoder.header.size
        let (sum, overflow) = bytes.addingReportingOverflow(size)
        bytes = sum
        if options.maximumBytes > 0 && (overflow || bytes > options.maximumBytes) {
            throw Failure(number: EDQUOT)
        }
        if let reserved = options.reservedSpace { try waitForSpace(size, reserved) }
        let (name, header) = (decoder.name, decoder.header)
        try files { writer throws(Errno) in
            try writer.leaveDirectories(notContaining: name)
            try writer.beginFile(name, header)
        }
    }

    private mutating func take(
        _ buffer: borrowing [UInt8], _ range: Range<Int>
    ) throws(Failure) {
        if FileKind(mode: decoder.header.mode) == .symbolicLink {
            target += buffer[range]
            return
        }
        do throws(Errno) {
            try writer.write(buffer.span.extracting(range))
        } catch {
            throw Failure(error)
        }
    }

    private mutating func end() throws(Failure) {
        let name = decoder.name
        let header = decoder.header
        switch FileKind(mode: header.mode) {
        case .directory: try files { w throws(Errno) in try w.directory(name, header) }
        case .symbolicLink: try endLink(name, header)
        default: try files { w throws(Errno) in try w.endFile(name, header) }
        }
    }

    private mutating func endLink(_ name: [UInt8], _ header: EntryHeader) throws(Failure) {
        do throws(NameRules.Violation) {
            try options.rules.check(
                link: name.span.extracting(..<(name.count - 1)), target: target.span)
        } catch {
            throw Failure(number: error.errorNumber)
        }
        // The kernel would take such a target only up to its NUL.
        if target.contains(0) { throw Failure(number: EILSEQ) }
        let target = self.target + [0]
        try files { writer throws(Errno) in
            try writer.leaveDirectories(notContaining: name)
            try writer.makeLink(name, to: target, header)
        }
    }

    private mutating func files(
        _ body: (inout TreeWriter) throws(Errno) -> Void
    ) throws(Failure) {
        do throws(Errno) {
            try body(&writer)
        } catch {
            throw Failure(error)
        }
    }

    private func waitForSpace(_ size: UInt64, _ reserved: UInt64) throws(Failure) {
        let (needed, overflow) = size.addingReportingOverflow(reserved)
        if overflow { throw Failure(number: ENOSPC) }
        do throws(Errno) {
            while try writer.freeSpace() < needed { usleep(200_000) }
        } catch {
            throw Failure(error)
        }
    }
}

extension StreamDecoder.Failure {
    /// The code that the sender gets.
    var errorNumber: Int32 {
        switch self {
        case .nameTooLong, .linkTargetTooLong: ENAMETOOLONG
        case .tooLarge: EDQUOT
        case .nameNotTerminated, .directoryWithContents, .unknownType, .nanoseconds: EINVAL
        }
    }
}

extension NameRules.Violation {
    /// The code that the sender gets.
    var errorNumber: Int32 {
        switch self {
        case .character, .path: EILSEQ
        case .linkAtTop, .linkTarget: ENOLINK
        }
    }
}
