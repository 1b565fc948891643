import ArgumentParser
import Foundation
import QrexecDom0
import QrexecPolicy
import QrexecRuntime

/// `qrexec-legacy-convert`: moves the old rules into a file of the present format.
struct LegacyConvertTool: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "qrexec-legacy-convert",
        abstract: "Convert the rules in /etc/qubes-rpc/policy to a file of the present format.",
        discussion: """
            The old files are moved to a directory beside theirs. Nothing is changed unless every \
            rule can be converted. Exit status: 0 done or nothing to do, 1 refused, 64 usage.
            """,
        version: Version.line("qrexec-legacy-convert"))

    @Option(name: .customLong("legacy-dir"), help: .hidden) var legacy = "/etc/qubes-rpc/policy"

    func run() throws {
        try reportingFailures {
            guard let admin = PolicyAccess().local else {
                throw PolicyAccess.RemoteFailure("there is no policy directory here")
            }
            let old = LegacyPolicy(absolutePath(legacy))
            if !old.errors.isEmpty {
                for error in old.errors { Console.error(error.description) }
                throw PolicyAccess.RemoteFailure("the old rules have errors; nothing was changed")
            }
            if old.rules == 0 {
                Console.line("There are no rules of the old format.")
                return
            }
            let file = try PolicyAdmin.File(LegacyPolicy.fileName, isInclude: false)
            var contents = old.contents
            if let present = try? admin.get(file) { contents = present + contents }
            try PolicyHistory(admin).keep(file)
            try admin.replace(file, with: contents, token: "any")
            try moveAway(absolutePath(legacy))
            Console.line("\(old.rules) rules are now in \(admin.path(file)).")
        }
    }

    /// Moves the files, not the directory: `!compat-4.0` needs it.
    private func moveAway(_ directory: String) throws {
        let manager = FileManager.default
        var place = directory + ".converted"
        var number = 1
        while manager.fileExists(atPath: place) {
            number += 1
            place = "\(directory).converted-\(number)"
        }
        try manager.createDirectory(atPath: place, withIntermediateDirectories: false)
        for name in try manager.contentsOfDirectory(atPath: directory) where !name.hasPrefix(".") {
            try manager.moveItem(atPath: directory + "/" + name, toPath: place + "/" + name)
        }
        Console.line("The old files were moved to \(place).")
    }
}
