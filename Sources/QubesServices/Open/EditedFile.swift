import Glibc
import LinuxSystem
import SystemPackage

/// Where the changed form of a file is collected until it is known to be whole: a file without a
/// name, so that nothing half-written can be found or left behind.
struct EditedFile {
    private let path: String
    private let name: [UInt8]
    private let original: FileAttributes
    private let place: Place

    /// Where it is kept: beside the original, or in /tmp where nothing can be created there.
    private struct Place {
        let directory: SharedDescriptor
        let path: String
        let isBeside: Bool
        let file: SharedDescriptor
    }

    /// - Parameter path: the file that is edited; a link is followed.
    init(of path: String) throws(FileProblem) {
        self.path = path
        do throws(Errno) {
            let real = try Descriptor.realPath(Array(path.utf8) + [0])
            let cut = real.lastIndex(of: slash)!
            name = Array(real[(cut + 1)...])
            let parent = cut == 0 ? [slash] : Array(real[..<cut])
            let directory = SharedDescriptor(
                try Descriptor.open(bytes: parent + [0], O_RDONLY | O_DIRECTORY))
            original = try directory.descriptor.status(of: name + [0])
            guard original.kind == .regular else { throw .invalidArgument }
            place = try Self.place(directory, String(decoding: parent, as: UTF8.self))
        } catch .invalidArgument {
            throw FileProblem(Array(path.utf8), "is not a file")
        } catch {
            throw FileProblem(Array(path.utf8), error)
        }
    }

    private static func place(
        _ directory: SharedDescriptor, _ path: String
    ) throws(Errno) -> Place {
        if let file = try? directory.descriptor.openUnnamedForReading(mode: 0o600) {
            return Place(
                directory: directory, path: path, isBeside: true, file: SharedDescriptor(file))
        }
        let temporary = SharedDescriptor(try Descriptor.open("/tmp", O_RDONLY | O_DIRECTORY))
        let file = try temporary.descriptor.openUnnamedForReading(mode: 0o600)
        return Place(
            directory: temporary, path: "/tmp", isBeside: false, file: SharedDescriptor(file))
    }

    /// The descriptor that the changed contents are written to.
    var number: Int32 { place.file.descriptor.number }

    /// Puts the changed file in the place of the original, with its permissions and durably. Nothing
    /// came back: nothing happens.
    ///
    /// - Returns: what the person should know, if anything.
    func replaceOriginal() throws(FileProblem) -> String? {
        do throws(Errno) {
            if try place.file.descriptor.status().size == 0 { return nil }
            try place.file.descriptor.setMode(original.mode)
            try place.file.descriptor.syncFileSystem()
            if !place.isBeside {
                let kept = try keep(named: Array("file_edited_in_dvm".utf8))
                return "the directory of \(path) cannot be written to; the changed file is \(kept)"
            }
            let now = try place.directory.descriptor.status(of: name + [0])
            if now.inode != original.inode || now.size != original.size
                || now.modified != original.modified
            {
                let kept = try keep(named: name)
                return
                    "\(path) was changed here in the meantime; the file that came back is \(kept)"
            }
            let temporary = try link(named: name)
            do throws(Errno) {
                try place.directory.descriptor.rename(temporary + [0], over: name + [0])
            } catch {
                try? place.directory.descriptor.remove(temporary + [0], directory: false)
                throw error
            }
            try place.directory.descriptor.syncFileSystem()
            return nil
        } catch {
            throw FileProblem(
                Array(path.utf8), "the changed file cannot be stored: \(error.message)")
        }
    }

    /// Gives the changed file a name of its own and leaves the original alone. Nothing came back:
    /// nothing happens.
    ///
    /// - Returns: what the person should know.
    func keepBesideOriginal() throws(Errno) -> String? {
        if try place.file.descriptor.status().size == 0 { return nil }
        try place.file.descriptor.setMode(original.mode)
        return "\(path) stays as it is; the file that came back is \(try keep(named: name))"
    }

    /// Names the file and returns its path.
    private func keep(named base: [UInt8]) throws(Errno) -> String {
        "\(place.path)/" + String(decoding: try link(named: base), as: UTF8.self)
    }

    /// Names the file `base.XXXXXX`.
    private func link(named base: [UInt8]) throws(Errno) -> [UInt8] {
        let proc = TreeWriter.openDescriptors()
        let letters = Array("abcdefghijklmnopqrstuvwxyz0123456789".utf8)
        for _ in 0..<100 {
            let suffix = (0..<6).map { _ in letters.randomElement()! }
            // A name has at most 255 bytes.
            let name = base.prefix(248) + [dot] + suffix
            do throws(Errno) {
                try place.directory.descriptor.link(
                    place.file.descriptor, as: name + [0],
                    descriptors: proc?.descriptor.number ?? -1)
                return Array(name)
            } catch .fileExists {}
        }
        throw .fileExists
    }
}
