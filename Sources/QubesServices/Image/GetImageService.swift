import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// The service `qubes.GetImageRGBA`: a picture of this qube as plain pixels (specification 16.2), so
/// that the caller needs no decoder. PNG and binary Netpbm pictures are read here; others by
/// ImageMagick or librsvg where one is installed. Exit status: 0, or 1 without a byte of output.
public enum GetImageService {
    private struct Failure: Error { let text: String }

    /// Bytes of a picture before it is decoded.
    private static let maximumFile = 64 << 20
    private static let maximumLine = 4096
    /// Pixels of an icon each way.
    private static let iconSize = 512
    /// Nanoseconds for a program that decodes.
    private static let patience: UInt64 = 60_000_000_000

    /// - Parameter arguments: all of argv; the service takes none.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.GetImageRGBA")
        CurrentProcess.ignoreBrokenPipes()
        do throws(Failure) {
            guard let name = StandardInput.line(limit: maximumLine), !name.isEmpty else {
                throw Failure(
                    text: "expected a line with a file, '-', 'FORMAT:-' or 'xdgicon:NAME'")
            }
            let image = try image(name)
            do throws(Errno) {
                try Descriptor.writeAll(image.answer, to: 1)
            } catch {
                throw Failure(text: "the caller does not listen: \(error.message)")
            }
            return 0
        } catch {
            complain(program, error.text)
            return 1
        }
    }

    // MARK: Which

    private static func image(_ name: String) throws(Failure) -> Image {
        if name.hasPrefix("xdgicon:") {
            let icon = name.dropFirst("xdgicon:".count)
            guard let path = Icons.find(String(icon)) else {
                throw Failure(text: "no icon \(displayable(icon.utf8))")
            }
            return try decode(try contents(path), format: nil).reduced(to: iconSize)
        }
        if name == "-" || name.hasSuffix(":-") {
            let format = name == "-" ? nil : name.dropLast(2).lowercased()
            if let format, !ImageConverter.formats.contains(format) {
                throw Failure(text: "\(displayable(format.utf8)) is no format of pictures")
            }
            let data: [UInt8]
            do throws(Errno) {
                data = try BoundedRead.all(
                    of: 0, limit: maximumFile, deadline: CurrentProcess.now + patience)
            } catch {
                throw Failure(text: "the picture cannot be read: \(error.message)")
            }
            return try decode(data, format: format)
        }
        return try decode(try contents(name), format: nil)
    }

    private static func contents(_ path: String) throws(Failure) -> [UInt8] {
        do throws(Errno) {
            let file = try Descriptor.open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY)
            guard try file.status().kind == .regular else { throw .invalidArgument }
            return try file.readAll(limit: maximumFile)
        } catch {
            throw Failure(text: "\(displayable(path.utf8)): \(error.message)")
        }
    }

    private static func decode(_ data: [UInt8], format: String?) throws(Failure) -> Image {
        do throws(Image.Invalid) {
            if PNGReader.accepts(data) { return try PNGReader.read(data) }
            if NetpbmReader.accepts(data) { return try NetpbmReader.read(data) }
            let png = try ImageConverter.png(
                data, format: format, deadline: CurrentProcess.now + patience)
            return try PNGReader.read(png)
        } catch {
            throw Failure(text: "the picture cannot be used: \(error.reason)")
        }
    }
}

/// Pictures that only other programs understand: they make PNGs of them.
enum ImageConverter {
    /// What a caller may name. Programs know formats that are scripts; those are not among them.
    static let formats: Set<String> = [
        "bmp", "gif", "ico", "jpeg", "jpg", "pam", "pbm", "pgm", "png", "pnm", "ppm", "svg", "tga",
        "tif", "tiff", "webp", "xbm", "xpm",
    ]

    private static let maximumOutput = 128 << 20

    /// What a picture is by its first bytes; programs must not guess.
    static func format(of data: [UInt8]) -> String? {
        let starts: [([UInt8], String)] = [
            ([0xFF, 0xD8, 0xFF], "jpeg"), (Array("GIF8".utf8), "gif"), (Array("BM".utf8), "bmp"),
            ([0x49, 0x49, 0x2A, 0], "tiff"), ([0x4D, 0x4D, 0, 0x2A], "tiff"),
            ([0, 0, 1, 0], "ico"), (Array("/* XPM */".utf8), "xpm"),
            (Array("P1".utf8), "pbm"), (Array("P2".utf8), "pgm"), (Array("P3".utf8), "ppm"),
            (Array("P4".utf8), "pbm"), (Array("P7".utf8), "pam"),
        ]
        if let found = starts.first(where: { data.starts(with: $0.0) }) { return found.1 }
        if isSVG(data) { return "svg" }
        let isWebP = data.starts(with: "RIFF".utf8) && data.dropFirst(8).starts(with: "WEBP".utf8)
        return isWebP ? "webp" : nil
    }

    /// Text may have a mark of its encoding, blanks, comments and a document type before its picture.
    private static func isSVG(_ data: [UInt8]) -> Bool {
        let mark: [UInt8] = [0xEF, 0xBB, 0xBF]
        let text = data.dropFirst(data.starts(with: mark) ? mark.count : 0)
            .drop { $0 == 0x20 || (0x09...0x0D).contains($0) }
        return ["<svg", "<?xml", "<!--", "<!DOCTYPE svg"].contains { text.starts(with: $0.utf8) }
    }

    static func png(
        _ data: [UInt8], format named: String?, deadline: UInt64
    ) throws(Image.Invalid) -> [UInt8] {
        guard let format = named ?? format(of: data), format != "png" else {
            throw Image.Invalid(reason: "its format is unknown; name it, as in 'tga:-'")
        }
        guard let command = command(format) else {
            let package = format == "svg" ? "librsvg2-bin" : "imagemagick"
            throw Image.Invalid(reason: "\(format) needs \(package), which is not installed here")
        }
        do throws(Errno) {
            let input = try Descriptor.memoryFile(named: "picture")
            try input.writeAll(data)
            try input.seek(0, .start)
            var request = SpawnRequest(
                path: command[0], arguments: command, environment: CurrentProcess.environment)
            let result = try BoundedProgram.run(
                &request, input: input.number, errors: 2, limit: maximumOutput, deadline: deadline)
            guard result.status == 0 else { throw .invalidArgument }
            return result.output
        } catch {
            throw Image.Invalid(reason: "\(command[0]) cannot read it as \(format)")
        }
    }

    private static func command(_ format: String) -> [String]? {
        if format == "svg" {
            return Programs.find("rsvg-convert").map { [$0] }
        }
        // Of several pictures in a file, which become one another's neighbours in time or size, one.
        let rest = ["\(format):-[0]", "-strip", "-depth", "8", "png:-"]
        if let magick = Programs.find("magick") ?? Programs.find("convert") {
            return [magick] + rest
        }
        return Programs.find("gm").map { [$0, "convert"] + rest }
    }
}

/// Icons by their names, in the places that desktops keep them.
enum Icons {
    private static let sizes =
        [512, 256, 192, 128, 96, 72, 64, 48, 36, 32, 24, 22, 16].map { "\($0)x\($0)" }
        + ["scalable"]
    private static let kinds = [
        "apps", "mimetypes", "places", "categories", "devices", "status", "actions",
    ]
    private static let themes = ["hicolor", "Adwaita", "gnome", "breeze"]

    /// The file of the largest icon with a name; nil without one, or for a name that is none.
    static func find(_ name: String) -> String? {
        let home = CurrentProcess.variable("HOME") ?? "/"
        return find(
            name,
            in: ["\(home)/.local/share", "/usr/local/share", "/usr/share"])
    }

    static func find(_ name: String, in directories: [String]) -> String? {
        let isName =
            (1...255).contains(name.utf8.count) && !name.hasPrefix(".")
            && name.utf8.allSatisfy {
                switch $0 {
                case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
                default: "._+-".utf8.contains($0)
                }
            }
        guard isName else { return nil }
        for directory in directories {
            for theme in themes where PathStatus.exists("\(directory)/icons/\(theme)") {
                for size in sizes {
                    for kind in kinds {
                        let path = "\(directory)/icons/\(theme)/\(size)/\(kind)/\(name)"
                        if let found = file(path, ["png", "svg"]) { return found }
                    }
                }
            }
            if let found = file("\(directory)/pixmaps/\(name)", ["png", "xpm", "svg"]) {
                return found
            }
        }
        return nil
    }

    private static func file(_ stem: String, _ suffixes: [String]) -> String? {
        suffixes.map { "\(stem).\($0)" }.first { (try? FileStatus.kind(of: $0)) == .regular }
    }
}
