import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// The service `qubes.PostInstall`: dom0 calls it when packages of this qube have changed. It runs the
/// programs of `post-install.d` and then tells dom0 what this qube can do, by dom0's
/// `qubes.FeaturesRequest`. Exit status: 0, or 1 when a program failed or dom0 was not told.
public enum PostInstallService {
    private static let maximumServices = 2000

    /// - Parameter arguments: all of argv; the service takes none.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.PostInstall")
        CurrentProcess.ignoreBrokenPipes()
        let isGood = Hooks.run(
            ["/etc/qubes/post-install.d", "/usr/local/etc/qubes/post-install.d"],
            reporter: program)
        do throws(FileProblem) {
            let request = FeaturesRequest(services: services)
            // Where there is a QubesDB, dom0 looks for the request there.
            if let writer = Programs.find("qubesdb-write") {
                for (key, value) in request.features {
                    _ = Hooks.run(
                        writer, ["/features-request/\(key)", value], reporter: program)
                }
            }
            let status = try tell(request)
            if status != 0 {
                complain(program, "dom0 did not take what this qube can do (status \(status))")
                return 1
            }
            return isGood ? 0 : 1
        } catch {
            complain(program, error.line)
            return 1
        }
    }

    private static func tell(_ request: FeaturesRequest) throws(FileProblem) -> Int32 {
        let client = try Programs.client()
        let file = try request.file()
        do throws(Errno) {
            var spawn = SpawnRequest(
                path: client, arguments: [client, "dom0", "qubes.FeaturesRequest"],
                environment: CurrentProcess.environment)
            // Standard output belongs to dom0, who called this.
            spawn.descriptors = [file.number, 2, 2]
            spawn.diesWithParent = true
            return try ChildProcess.spawn(spawn).reap()
        } catch {
            throw FileProblem(Array(client.utf8), error)
        }
    }

    /// The names of all services of this qube, without those for one argument only.
    private static var services: [String] {
        var names: Set<String> = []
        for directory in ServiceLookup.configured.directories {
            let found = (try? Directory.names(in: directory, limit: maximumServices)) ?? []
            names.formUnion(found.filter { FeaturesRequest.isKey("supported-rpc.\($0)") })
        }
        return names.sorted()
    }
}

/// What a qube says that it can do: lines `KEY=VALUE` on the standard input of
/// `qubes.FeaturesRequest`.
struct FeaturesRequest: Equatable {
    /// In the order of the lines.
    var features: [(key: String, value: String)]

    static func == (left: FeaturesRequest, right: FeaturesRequest) -> Bool {
        left.features.elementsEqual(right.features) { $0 == $1 }
    }

    /// Why a text is no request.
    struct Invalid: Error, Equatable { let reason: String }

    /// Bytes of all lines, and how many of them.
    static let maximumSize = 256 * 1024
    static let maximumCount = 4000

    /// A qube with this package's agent and these services.
    init(services: [String]) {
        features =
            [("qrexec", "1"), ("vmexec", "1"), ("os", "Linux")]
            + services.map { ("supported-rpc.\($0)", "1") }
    }

    /// Reads what a qube sent: only what qubes may say about themselves, nothing that changes how
    /// dom0 treats them.
    init(_ bytes: [UInt8]) throws(Invalid) {
        features = []
        var seen: Set<String> = []
        for line in bytes.split(separator: 0x0A) {
            let text = String(decoding: line, as: UTF8.self)
            guard let equals = text.firstIndex(of: "=") else {
                throw Invalid(reason: "a line is not KEY=VALUE")
            }
            let key = String(text[..<equals])
            let value = String(text[text.index(after: equals)...])
            guard Self.isKey(key) else {
                throw Invalid(reason: "\(LogText.value(key)) is not for a qube to say")
            }
            guard Self.isValue(value) else { throw Invalid(reason: "\(key) has a bad value") }
            if !seen.insert(key).inserted { throw Invalid(reason: "\(key) comes twice") }
            features.append((key, value))
            if features.count > Self.maximumCount { throw Invalid(reason: "too many lines") }
        }
    }

    static func isKey(_ key: String) -> Bool {
        if ["qrexec", "gui", "gui-emulated", "vmexec", "os", "os-distribution"].contains(key) {
            return true
        }
        let kinds = ["supported-rpc.", "supported-feature.", "supported-service."]
        guard let kind = kinds.first(where: { key.hasPrefix($0) }) else { return false }
        let name = key.dropFirst(kind.count)
        return (1...200).contains(name.utf8.count) && isText(name)
    }

    private static func isValue(_ value: String) -> Bool {
        value.utf8.count <= 64 && isText(value[...])
    }

    private static func isText(_ text: Substring) -> Bool {
        text.utf8.allSatisfy {
            switch $0 {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
            default: "._-".utf8.contains($0)
            }
        }
    }

    /// The lines, to be read from the start.
    func file() throws(FileProblem) -> Descriptor {
        do throws(Errno) {
            let file = try Descriptor.memoryFile(named: "features")
            try file.writeAll(Array(features.map { "\($0.key)=\($0.value)\n" }.joined().utf8))
            try file.seek(0, .start)
            return file
        } catch {
            throw FileProblem(Array("features".utf8), error)
        }
    }
}
