import ArgumentParser
import Foundation
import QrexecDom0

/// `qubes-policy -l|-g|-r|-d`: the policy files themselves.
struct FilesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "files",
        abstract: "List, show, replace or remove policy files.",
        usage: """
            qubes-policy -l [include/]
            qubes-policy -g [include/]NAME
            qubes-policy -r [include/]NAME < CONTENTS
            qubes-policy -d [include/]NAME
            """,
        discussion: """
            A change is made only when the whole policy can be loaded with it. Exit status: 0 \
            done, 1 refused, 64 usage.
            """)

    enum Action: EnumerableFlag {
        case list, get, replace, remove

        static func name(for value: Action) -> NameSpecification {
            switch value {
            case .list: [.customShort("l"), .long]
            case .get: [.customShort("g"), .long]
            case .replace: [.customShort("r"), .long]
            case .remove: [.customShort("d"), .long]
            }
        }

        static func help(for value: Action) -> ArgumentHelp? {
            switch value {
            case .list: "List the files, or with include/ those that are included."
            case .get: "Write a file to standard output."
            case .replace: "Replace or make a file from standard input."
            case .remove: "Remove a file."
            }
        }
    }

    @Flag(exclusivity: .exclusive) var action: Action

    @Argument(help: ArgumentHelp("The file, without .policy.", valueName: "[include/]NAME"))
    var name: String?

    func validate() throws {
        if action == .list {
            if let name, name != "include/" && name != "include" {
                throw ValidationError("--list takes include/ or nothing")
            }
        } else if name == nil {
            throw ValidationError("expected the name of a file")
        }
    }

    func run() throws {
        try reportingFailures {
            let access = PolicyAccess()
            if action == .list {
                for entry in try access.list(includes: name != nil) { Console.line(entry) }
                return
            }
            let reference = try PolicyFileReference(name ?? "")
            switch action {
            case .list: break
            case .get:
                let contents = try access.get(reference).contents
                FileHandle.standardOutput.write(Data(contents))
            case .replace:
                let contents = [UInt8](FileHandle.standardInput.readDataToEndOfFile())
                if let local = access.local {
                    try PolicyHistory(local).keep(reference.file)
                }
                try access.replace(reference, with: contents, token: "any")
            case .remove:
                if let local = access.local {
                    try PolicyHistory(local).keep(reference.file)
                }
                try access.remove(reference, token: "any")
            }
        }
    }
}
