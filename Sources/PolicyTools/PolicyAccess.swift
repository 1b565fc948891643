import ArgumentParser
import Foundation
import LinuxSystem
import QrexecDom0
import QrexecPolicy
import SystemPackage

/// Names of policy files as people write them: `30-user`, `30-user.policy`, `include/NAME`.
struct PolicyFileReference {
    let file: PolicyAdmin.File

    init(_ text: String) throws {
        let isInclude = text.hasPrefix("include/")
        var name = isInclude ? String(text.dropFirst(8)) : text
        if !isInclude, name.hasSuffix(".policy") { name.removeLast(7) }
        do throws(PolicyAdmin.Failure) {
            file = try PolicyAdmin.File(name, isInclude: isInclude)
        } catch {
            Console.error(error.description)
            throw ExitCode(1)
        }
    }

    /// The services' names for it.
    var prefix: String { file.isInclude ? "policy.include." : "policy." }
}

/// The policy files: those of this machine, or dom0's by its services when this is a qube.
struct PolicyAccess {
    private let admin: PolicyAdmin?

    /// dom0 is where a policy directory is.
    init() {
        self.init(PolicyAdmin())
    }

    private init(_ admin: PolicyAdmin) {
        self.admin = FileManager.default.fileExists(atPath: admin.directory) ? admin : nil
    }

    /// The files of a directory that somebody named, which must be there.
    init(_ directories: PolicyDirectories) throws {
        self.init(PolicyAdmin(directories))
        if admin == nil {
            throw RemoteFailure("there is no directory \(directories.directories.last ?? "")")
        }
    }

    /// nil in a qube.
    var local: PolicyAdmin? { admin }

    func list(includes: Bool) throws -> [String] {
        if let admin { return try admin.list(includes: includes) }
        let output = try call(includes ? "policy.include.List" : "policy.List", [])
        return String(decoding: output, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    /// The token and the contents of a file.
    func get(_ reference: PolicyFileReference) throws -> (token: String, contents: [UInt8]) {
        if let admin {
            let contents = try admin.get(reference.file)
            return (PolicyAdmin.token(contents), contents)
        }
        let output = try call(reference.prefix + "Get+" + reference.file.name, [])
        guard let end = output.firstIndex(of: 0x0A) else { throw RemoteFailure("no token") }
        return (String(decoding: output[..<end], as: UTF8.self), Array(output[(end + 1)...]))
    }

    func replace(
        _ reference: PolicyFileReference, with contents: [UInt8], token: String
    ) throws {
        if let admin {
            return try admin.replace(reference.file, with: contents, token: token)
        }
        let input = Array((token + "\n").utf8) + contents
        _ = try call(reference.prefix + "Replace+" + reference.file.name, input)
    }

    func remove(_ reference: PolicyFileReference, token: String) throws {
        if let admin { return try admin.remove(reference.file, token: token) }
        _ = try call(reference.prefix + "Remove+" + reference.file.name, Array(token.utf8))
    }

    struct RemoteFailure: Error, CustomStringConvertible {
        let description: String
        /// The service ran and refused: there may be no such file.
        var isRefusedByService = false

        init(_ description: String) { self.description = description }
    }

    /// Calls a service of dom0 from a qube.
    private func call(_ service: String, _ input: [UInt8]) throws -> [UInt8] {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/qrexec-client-vm")
        process.arguments = ["dom0", service]
        let source = Pipe()
        let sink = Pipe()
        process.standardInput = source
        process.standardOutput = sink
        do {
            try process.run()
        } catch {
            throw RemoteFailure(
                "there is no policy directory here, and qrexec-client-vm does not start to ask "
                    + "dom0")
        }
        source.fileHandleForWriting.write(Data(input))
        try? source.fileHandleForWriting.close()
        let output = [UInt8](sink.fileHandleForReading.readDataToEndOfFile())
        process.waitUntilExit()
        if process.terminationStatus == 126 {
            throw RemoteFailure("dom0's policy denies \(service)")
        }
        if process.terminationStatus != 0 {
            var failure = RemoteFailure(
                "\(service) failed with status \(process.terminationStatus)")
            failure.isRefusedByService = process.terminationStatus == 1
            throw failure
        }
        return output
    }
}

/// Runs a tool's body; what the policy files refuse is told under its name, with status 1.
func reportingFailures<Result>(_ body: () throws -> Result) throws -> Result {
    do {
        return try body()
    } catch let failure as PolicyAdmin.Failure {
        Console.error(failure.description)
        throw ExitCode(1)
    } catch let failure as PolicyAccess.RemoteFailure {
        Console.error(failure.description)
        throw ExitCode(1)
    }
}
