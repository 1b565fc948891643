import Glibc
import LinuxSystem
import SystemPackage

/// `tar2qfile [ARCHIVE [NAME...]]`: turns a tar archive into the stream of a file copy. Exit status: 0,
/// 1 for a failure, 2 for a wrong command line.
public enum TarToStreamTool {
    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        var command = ToolArguments(arguments, name: "tar2qfile")
        if let ended = command.takeOptions(help: help, { _ in false }) { return ended }
        let archive = command.next() ?? "-"
        let names = command.rest.map { Array($0.utf8) }
        CurrentProcess.ignoreBrokenPipes()
        do throws(SendFailure) {
            let isInput = ["-", "/dev/stdin"].contains(archive)
            let file: Descriptor
            do throws(Errno) {
                file =
                    try isInput
                    ? Descriptor.duplicate(of: 0) : Descriptor.open(archive, O_RDONLY | O_NOCTTY)
            } catch {
                throw .file(FileProblem(Array(archive.utf8), error))
            }
            // Where the archive itself comes in by standard input, no answer can.
            var conversion = Conversion(
                DescriptorCarrier(output: 1, answers: isInput ? nil : 0), names: names,
                program: command.program)
            try conversion.send(file.number, archive, expectsAnswer: !isInput)
            return conversion.left == 0 ? 0 : 1
        } catch {
            complain(command.program, error.text)
            return 1
        }
    }

    /// One archive on its way.
    private struct Conversion: ~Copyable {
        private var stream: SendStream
        private let names: [[UInt8]]
        private let program: String
        /// Directories that were sent and that the last entry is in, outermost first.
        private var open: [(name: [UInt8], header: EntryHeader)] = []
        /// Entries that could not be sent.
        private(set) var left = 0

        init(_ carrier: any StreamCarrier, names: [[UInt8]], program: String) {
            stream = SendStream(carrier)
            self.names = names
            self.program = program
        }

        mutating func send(
            _ input: Int32, _ archive: String, expectsAnswer: Bool
        ) throws(SendFailure) {
            var reader = TarReader(input)
            var buffer = [UInt8](repeating: 0, count: SendStream.bufferSize / 2)
            while true {
                let entry: TarReader.Entry?
                do throws(TarReader.Failure) { entry = try reader.next() } catch {
                    throw .file(FileProblem(Array(archive.utf8), error.text))
                }
                guard let entry else { break }
                if entry.name.isEmpty || !isWanted(entry.name) { continue }
                guard try begin(entry) else { continue }
                while true {
                    let count: Int
                    do throws(TarReader.Failure) { count = try reader.read(into: &buffer) } catch {
                        throw .file(FileProblem(entry.name, error.text))
                    }
                    if count == 0 { break }
                    try stream.put(Array(buffer[..<count]))
                }
            }
            try leave(notContaining: [])
            try stream.finish(expectsAnswer: expectsAnswer)
        }

        private func isWanted(_ name: [UInt8]) -> Bool {
            names.isEmpty
                || names.contains { name.elementsEqual($0) || name.starts(with: $0 + [slash]) }
        }

        /// Sends an entry's header and target.
        ///
        /// - Returns: whether its contents are to follow.
        private mutating func begin(_ entry: TarReader.Entry) throws(SendFailure) -> Bool {
            if entry.name.count >= NameRules.maximumLength {
                throw .file(FileProblem(entry.name, "the path is too long to be sent"))
            }
            if case .other(let type) = entry.kind {
                left += 1
                let what = type == UInt8(ascii: "1") ? "a hard link" : "a device or pipe"
                let text = "not sent, because it is \(what)"
                complain(program, FileProblem(entry.name, text).line)
                return false
            }
            try leave(notContaining: entry.name)
            try enterParents(of: entry)
            let name = entry.name + [0]
            switch entry.kind {
            case .directory:
                // Once is enough for one that was made for its contents already.
                if open.last?.name == entry.name {
                    open[open.count - 1].header = header(entry, size: 0)
                } else {
                    try enter(entry.name, header(entry, size: 0))
                }
                return false
            case .symbolicLink:
                try stream.put(header(entry, size: UInt64(entry.target.count)), name)
                try stream.put(entry.target)
                return false
            default:
                try stream.put(header(entry, size: entry.size), name)
                return true
            }
        }

        private func header(_ entry: TarReader.Entry, size: UInt64) -> EntryHeader {
            let type: UInt32 =
                switch entry.kind {
                case .directory: FileKind.directory.modeBits
                case .symbolicLink: FileKind.symbolicLink.modeBits
                default: FileKind.regular.modeBits
                }
            return EntryHeader(
                nameLength: UInt32(entry.name.count + 1), mode: type | entry.mode, size: size,
                accessed: entry.modified, modified: entry.modified)
        }

        private mutating func enter(
            _ name: [UInt8], _ header: EntryHeader
        ) throws(SendFailure) {
            try stream.put(header, name + [0])
            open.append((name, header))
        }

        /// An archive need not have the directories of what it has.
        private mutating func enterParents(of entry: TarReader.Entry) throws(SendFailure) {
            let have = open.last?.name.count ?? 0
            for (index, byte) in entry.name.enumerated() where byte == slash && index > have {
                let parent = TarReader.Entry(
                    name: Array(entry.name[..<index]), kind: .directory, mode: 0o755, size: 0,
                    modified: entry.modified, target: [])
                try enter(parent.name, header(parent, size: 0))
            }
        }

        /// Sends the second header of each directory that the next entry is not in.
        private mutating func leave(notContaining name: [UInt8]) throws(SendFailure) {
            while let last = open.last, name != last.name, !name.starts(with: last.name + [slash]) {
                open.removeLast()
                try stream.put(last.header, last.name + [0])
            }
        }
    }

    private static let help = """
        Usage: tar2qfile [ARCHIVE [NAME...]]
        Turns a tar archive (default: standard input) into the stream of a file copy on standard
        output, for qubes.Filecopy. With NAMEs only these are sent, with what is in them. The answer
        is read from standard input, unless the archive comes in there.

          -h, --help        show this text
              --version     show the version

        Exit status: 0, 1 for a failure or when something in the archive cannot be sent, 2 for a
        wrong command line.

        """
}
