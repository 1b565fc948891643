import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage

/// The service `qubes.OpenInVM`: receives a file, opens it for the person at the screen, and gives
/// it back when it was changed. Exit status: 0 after an orderly end, else 1; only 0 entitles the
/// caller to take what came back for the whole file.
public enum OpenInVMService {
    private struct Failure: Error { let text: String }

    /// - Parameter arguments: all of argv; the service takes none.
    public static func run(arguments: [String]) -> Int32 {
        CurrentProcess.ignoreBrokenPipes()
        let program = programName(arguments.first ?? "qubes.OpenInVM")
        if arguments.count > 1 && arguments[1] != "" {
            complain(program, "this service takes no argument")
            return 1
        }
        do throws(Failure) {
            let source = CurrentProcess.variable("QREXEC_REMOTE_DOMAIN") ?? ""
            guard Names.isDomainName(source) else {
                throw Failure(text: "QREXEC_REMOTE_DOMAIN does not name a qube")
            }
            guard let request = try receiveRequest() else {
                throw Failure(text: "\(source) sent no usable file name")
            }
            try serve(request, from: source)
            return 0
        } catch {
            Opener.showError(error.text)
            return 1
        }
    }

    private static func receiveRequest() throws(Failure) -> OpenRequest? {
        var field = [UInt8](repeating: 0, count: OpenRequest.length)
        var filled = 0
        do throws(Errno) {
            while filled < field.count {
                let got = try Descriptor.read(
                    0, into: &field, at: filled, count: field.count - filled)
                if got == 0 { return nil }
                filled += got
            }
        } catch {
            throw Failure(text: "cannot read the file name: \(error.message)")
        }
        return OpenRequest(field)
    }

    private static func serve(_ request: OpenRequest, from source: String) throws(Failure) {
        let directory: String
        let caller: CallerAway
        do throws(Errno) {
            // Before there is something to remove: the caller may leave at any time.
            caller = try CallerAway()
            directory = try Descriptor.makeTemporaryDirectory(prefix: "/tmp/\(source)-")
        } catch {
            throw Failure(text: "cannot create a directory in /tmp: \(error.message)")
        }
        let path = "\(directory)/\(request.safeName)"
        var keeps = false
        defer {
            if !keeps {
                try? FileStatus.remove(path)
                // Stays when the person stored something else in it.
                try? Descriptor.removeDirectory(directory)
            }
        }
        let before = try receive(path, isViewOnly: request.isViewOnly, unless: caller)
        guard let opener = Opener() else {
            throw Failure(text: "\(request.safeName) from \(source): nothing here opens files")
        }
        let status: Int32?
        let begun = CurrentProcess.now
        do throws(Errno) { status = try opener.open(path, unless: caller) } catch {
            throw Failure(text: "the opener cannot be started: \(error.message)")
        }
        if let status, status != 0 {
            throw Failure(
                text: "\(request.safeName) from \(source) could not be opened ("
                    + "exit status \(status))")
        }
        let use = ThingInUse(fileIn: directory)
        if status == nil || !use.waitForEnd(begun: begun, unless: caller) {
            caller.endPrograms()
            // Nobody takes the file any more: only what a person may have typed stays.
            keeps = !request.isViewOnly && (!use.endsSoon() || (try? state(of: path)) != before)
            let what = keeps ? "the file is kept as \(path)" : "the file was not changed"
            throw Failure(text: "\(request.safeName): \(source) is gone; \(what)")
        }
        if request.isViewOnly { return }
        do throws(Errno) {
            try sendBack(path, unless: before)
        } catch .noSuchFileOrDirectory {
            throw Failure(text: "\(request.safeName) was removed; \(source) keeps its own")
        } catch {
            // Work of the person must not be lost: it stays where it is.
            keeps = true
            throw Failure(
                text: "the changed file did not get back to \(source) (\(error.message)); "
                    + "it is kept as \(path)")
        }
    }

    /// A file's state, to see whether it was changed.
    struct State: Equatable {
        var size: UInt64
        var checksum: CRC32
    }

    private static func receive(
        _ path: String, isViewOnly: Bool, unless caller: CallerAway
    ) throws(Failure) -> State {
        do throws(Errno) {
            let flags = O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW
            let file = try Descriptor.open(path, flags, mode: 0o600)
            let state = try copy(from: 0, to: file.number, unless: caller)
            if isViewOnly { try file.setMode(0o400) }
            return state
        } catch .connectionReset {
            throw Failure(text: "the caller left before all of its file was here")
        } catch {
            throw Failure(text: "cannot store the file: \(error.message)")
        }
    }

    private static func state(of path: String) throws(Errno) -> State {
        let flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY
        let file = try Descriptor.open(path, flags)
        return try copy(from: file.number, to: nil)
    }

    private static func sendBack(_ path: String, unless before: State) throws(Errno) {
        let flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY
        let file = try Descriptor.open(path, flags)
        if try copy(from: file.number, to: nil) == before { return }
        try file.seek(0, .start)
        _ = try copy(from: file.number, to: 1)
    }

    /// Copies to the end of the input and tells what it was.
    ///
    /// - Parameter caller: whose leaving is `ECONNRESET`: then the input's end is none.
    static func copy(
        from input: Int32, to output: Int32?, limit: UInt64 = .max,
        unless caller: CallerAway? = nil
    ) throws(Errno) -> State {
        var buffer = [UInt8](repeating: 0, count: 128 * 1024)
        var state = State(size: 0, checksum: CRC32())
        while true {
            if let caller, try caller.wait(for: input) { throw .connectionReset }
            let got = try Descriptor.read(input, into: &buffer, at: 0, count: buffer.count)
            if got == 0 { return state }
            state.size += UInt64(got)
            if state.size > limit { throw .fileTooLarge }
            state.checksum.update(buffer.span.extracting(..<got))
            if let output { try Descriptor.writeAll(output, buffer.span.extracting(..<got)) }
        }
    }
}

/// The service `qubes.OpenURL`: opens the address in the first line of standard input.
public enum OpenURLService {
    /// - Parameter arguments: all of argv; the service takes none.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.OpenURL")
        guard let address = line(), OpenURLRequest.accepts(address) else {
            complain(program, "expected one line with an http, https or ftp address")
            return 1
        }
        guard let opener = Opener() else { return 1 }
        let text = String(decoding: address, as: UTF8.self)
        let begun = CurrentProcess.now
        do throws(Errno) {
            if try opener.open(text) != 0 { return 1 }
            // A disposable ends with this call; the browser may have just begun.
            ThingInUse(address: text).waitForEnd(begun: begun)
            return 0
        } catch {
            complain(program, "the opener cannot be started: \(error.message)")
            return 1
        }
    }

    private static func line() -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: OpenURLRequest.maximumLength + 1)
        var filled = 0
        while filled < buffer.count {
            guard
                let got = try? Descriptor.read(
                    0, into: &buffer, at: filled, count: buffer.count - filled)
            else { return nil }
            if got == 0 { break }
            filled += got
            if buffer[..<filled].contains(UInt8(ascii: "\n")) { break }
        }
        return Array(buffer[..<filled].prefix { $0 != UInt8(ascii: "\n") })
    }
}
