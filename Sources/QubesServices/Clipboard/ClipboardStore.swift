import Glibc
import LinuxSystem
import SystemPackage

/// dom0's clipboard between qubes: the files of specification 17, changed only by who holds the
/// lock, so that one text belongs to one source and one request.
///
/// A request has a number that is newer than that of every request before: what an older request
/// still brings is refused, and a text that was there goes away with the request that replaces it.
struct ClipboardStore {
    /// The number of a request: milliseconds of the clock that X servers use, 32 bits wide.
    typealias Request = UInt32

    struct Contents: Equatable {
        var text: [UInt8]
        /// The qube that it came from.
        var source: String
        var request: Request
    }

    /// Why a request failed at the source; for those who show it to the person at the screen.
    enum Failure: Equatable { case none, malformed, oversized, other }

    /// Where the files are.
    var directory = "/var/run/qubes"

    private var data: String { "\(directory)/qubes-clipboard.bin" }
    private var sourceFile: String { data + ".source" }
    private var requestFile: String { data + ".xevent" }
    private var metadata: String { data + ".metadata" }
    private var lock: String { "\(directory)/appviewer.lock" }

    private static let mode: UInt32 = 0o660
    private static let lockPatience: UInt64 = 10_000_000_000

    /// The number of a request that is made now.
    static var now: Request { Request(truncatingIfNeeded: CurrentProcess.now / 1_000_000) }

    /// Whether a request was made after another one, where numbers wrap round.
    static func isNewer(_ request: Request, than other: Request) -> Bool {
        Int32(bitPattern: request &- other) > 0
    }

    // MARK: The steps

    /// Begins a request: the text that was there is gone, and no older request can bring one.
    func begin() throws(Errno) -> Request {
        try locked { () throws(Errno) in
            var request = Self.now
            if let last = readRequest(), !Self.isNewer(request, than: last) { request = last &+ 1 }
            try write(Array("\(request)".utf8), to: requestFile)
            try wipe()
            return request
        }
    }

    /// Ends a request with a text.
    ///
    /// - Returns: false when there was a newer request, and nothing is stored.
    func store(_ contents: Contents, limit: Int) throws(Errno) -> Bool {
        try locked { () throws(Errno) in
            guard readRequest() == contents.request else { return false }
            try put(contents, limit: limit)
            return true
        }
    }

    /// Ends a request without a text.
    func fail(_ request: Request, source: String, _ failure: Failure, limit: Int) throws(Errno) {
        try locked { () throws(Errno) in
            guard readRequest() == request else { return }
            try write(
                ClipboardMetadata(
                    source: source, request: request, limit: limit, failure: failure
                ).bytes, to: metadata)
        }
    }

    /// The text that is there; nil without one.
    func read() throws(Errno) -> Contents? {
        try locked { () throws(Errno) in try contents() }
    }

    /// Takes a text out for a paste; then it is gone.
    ///
    /// - Returns: false when it is not the one that is there any more.
    func take(_ contents: Contents) throws(Errno) -> Bool {
        try locked { () throws(Errno) in
            guard try self.contents() == contents else { return false }
            try wipe()
            try write(
                ClipboardMetadata(
                    source: contents.source, request: contents.request, isPaste: true,
                    isCleared: true, size: contents.text.count
                ).bytes, to: metadata)
            return true
        }
    }

    /// Puts a text back that was taken and reached nobody, unless something newer came.
    func putBack(_ contents: Contents, limit: Int) throws(Errno) -> Bool {
        try locked { () throws(Errno) in
            guard readRequest() == contents.request, try self.contents() == nil else {
                return false
            }
            try put(contents, limit: limit)
            return true
        }
    }

    /// Removes the text of a request, if it is still there.
    func expire(_ request: Request) throws(Errno) {
        try locked { () throws(Errno) in
            guard let contents = try contents(), contents.request == request else { return }
            try clear(request, source: contents.source)
        }
    }

    private func clear(_ request: Request, source: String) throws(Errno) {
        try wipe()
        try write(
            ClipboardMetadata(source: source, request: request, isCleared: true).bytes,
            to: metadata)
    }

    /// Whether the text of a request is there; without the lock, for who waits for its end.
    func holds(_ request: Request) -> Bool {
        guard readRequest() == request, let file = try? Descriptor.open(data, Self.reading) else {
            return false
        }
        return ((try? file.status())?.size ?? 0) > 0
    }

    // MARK: Files

    private static let reading = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY

    private func locked<Result>(
        _ body: () throws(Errno) -> Result
    ) throws(Errno) -> Result {
        let flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_NOCTTY
        let made = try Descriptor.open(lock, flags, mode: Self.mode)
        // Everybody of the group takes it, whatever the umask of the first.
        try? made.setMode(Self.mode)
        let deadline = CurrentProcess.now + Self.lockPatience
        while true {
            do throws(Errno) {
                let held = try FileLock(lock, wait: false)
                return try Self.holding(held, body)
            } catch .wouldBlock {
                if CurrentProcess.now >= deadline { throw .timedOut }
                usleep(5_000)
            }
        }
    }

    private static func holding<Result>(
        _ lock: consuming FileLock, _ body: () throws(Errno) -> Result
    ) throws(Errno) -> Result {
        try body()
    }

    private func contents() throws(Errno) -> Contents? {
        let text = try readFile(data, limit: ClipboardText.limits.upperBound) ?? []
        guard !text.isEmpty, let request = readRequest(),
            let source = try readFile(sourceFile, limit: 64), !source.isEmpty
        else { return nil }
        return Contents(
            text: text, source: String(decoding: source, as: UTF8.self), request: request)
    }

    private func readRequest() -> Request? {
        guard let bytes = try? readFile(requestFile, limit: 32) else { return nil }
        // Others write the whole number of their clock.
        let digits = String(decoding: bytes.prefix { $0 != 0x0A }, as: UTF8.self)
        return UInt64(digits).map { Request(truncatingIfNeeded: $0) }
    }

    private func readFile(_ path: String, limit: Int) throws(Errno) -> [UInt8]? {
        do throws(Errno) {
            return try Descriptor.open(path, Self.reading).readAll(limit: limit)
        } catch .noSuchFileOrDirectory {
            return nil
        }
    }

    /// Empties the files in place first: nobody who has them open reads the old text on.
    private func wipe() throws(Errno) {
        for path in [data, sourceFile] {
            do throws(Errno) {
                _ = try Descriptor.open(path, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_NOCTTY)
            } catch .noSuchFileOrDirectory {}
        }
    }

    private func put(_ contents: Contents, limit: Int) throws(Errno) {
        try wipe()
        try write(Array(contents.source.utf8), to: sourceFile)
        try write(contents.text, to: data)
        try write(
            ClipboardMetadata(
                source: contents.source, request: contents.request, size: contents.text.count,
                limit: limit
            ).bytes, to: metadata)
    }

    private func write(_ bytes: [UInt8], to path: String) throws(Errno) {
        try FileChange.replace(path, with: bytes, mode: Self.mode)
    }
}

/// What is told about the last step, in the words that the tools of the desktop read.
struct ClipboardMetadata {
    var source: String
    var request: ClipboardStore.Request
    var isPaste = false
    var isCleared = false
    var size = 0
    var limit = ClipboardText.standardLimit
    var failure = ClipboardStore.Failure.none

    /// Version of the GUI protocol that has settable limits, for both sides.
    private static let protocolVersion = 1 << 16 | 8

    var bytes: [UInt8] {
        func flag(_ value: Bool) -> Int { value ? 1 : 0 }
        let fields: [(String, Int)] = [
            ("xevent_timestamp", Int(request)), ("successful", flag(failure == .none)),
            ("copy_action", flag(!isPaste && !isCleared)), ("paste_action", flag(isPaste)),
            ("malformed_request", flag(failure == .malformed)),
            ("oversized_request", flag(failure == .oversized)), ("cleared", flag(isCleared)),
            ("qrexec_clipboard", 1), ("sent_size", size), ("buffer_size", limit),
            ("protocol_version_xside", Self.protocolVersion),
            ("protocol_version_vmside", Self.protocolVersion),
        ]
        // A qube's name needs no escapes.
        let lines = ["\"vmname\":\"\(source)\""] + fields.map { "\"\($0.0)\":\($0.1)" }
        return Array("{\n\(lines.joined(separator: ",\n"))\n}\n".utf8)
    }
}
