import Foundation
import LinuxSystem
import Testing

@testable import QubesServices

/// The directory that the build leaves `qrexec-vm` in.
let builtPrograms: String? = {
    let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().path
    let places = [
        ProcessInfo.processInfo.environment["QREXEC_PROGRAMS"], package + "/.build/release",
    ]
    return places.compactMap(\.self).first { FileStatus.isExecutable($0 + "/qrexec-vm") }
}()

/// What a finished program left.
struct Outcome {
    var status: Int32
    var error: String
}

/// Two qubes in directories: programs and files here, what arrives in `there`.
final class Scene {
    let here: TemporaryDirectory
    let there: TemporaryDirectory

    /// - Parameter client: what the stand-in does with the local program in `"$@"`.
    init(client: String = Scene.call) throws {
        here = try TemporaryDirectory()
        there = try TemporaryDirectory()
        let bin = here.path + "/bin"
        try FileManager.default.createDirectory(
            atPath: bin, withIntermediateDirectories: false)
        let programs = try #require(builtPrograms, "run 'make build' first")
        try here.installProgram(programs + "/qrexec-vm", as: "bin/qrexec-vm")
        for name in ServiceTools.all.keys {
            try FileManager.default.createSymbolicLink(
                atPath: bin + "/" + name, withDestinationPath: "qrexec-vm")
        }
        // Not beside the program, which would take it for its own and call by itself.
        try here.writeProgram("client/qrexec-client-vm", client)
        try FileManager.default.createDirectory(
            atPath: here.path + "/work", withIntermediateDirectories: false)
    }

    /// Connects the local program with the service, as the two agents do.
    static let call = """
        target=$1 service=$2; shift 2
        here=$(dirname "$0")/../bin
        echo "$target $service" >> "$here/calls"
        name=${service%%+*}; argument=${service#*+}
        [ "$argument" = "$service" ] && argument=
        export HOME=$THERE QREXEC_REMOTE_DOMAIN=work
        [ $# = 0 ] && exec "$here/$name" ${argument:+"$argument"}
        fifo=$(mktemp -u "$here/answers.XXXXXX"); mkfifo "$fifo"
        "$@" < "$fifo" | "$here/$name" ${argument:+"$argument"} > "$fifo"
        status=("${PIPESTATUS[@]}"); rm "$fifo"
        [ "${status[1]}" = 0 ] || exit "${status[1]}"
        exit "${status[0]}"
        """

    func start(_ tool: String, _ arguments: [String], error: Pipe) throws -> Process {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: here.path + "/bin/" + tool)
        process.arguments = arguments
        process.currentDirectoryURL = URL(fileURLWithPath: here.path + "/work")
        process.environment = [
            "PATH": here.path + "/client:/usr/bin:/bin", "THERE": there.path,
        ]
        process.standardError = error
        process.standardInput = FileHandle.nullDevice
        try process.run()
        return process
    }

    func run(_ tool: String, _ arguments: String...) throws -> Outcome {
        let error = Pipe()
        let process = try start(tool, arguments, error: error)
        let text = error.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return Outcome(
            status: process.terminationStatus, error: String(decoding: text, as: UTF8.self))
    }

    /// What arrived.
    var arrived: [String] {
        there.contents.filter { $0.hasPrefix("QubesIncoming/work/") }
            .map { String($0.dropFirst("QubesIncoming/work/".count)) }
    }

    /// What is still here.
    var left: [String] {
        here.contents.filter { $0.hasPrefix("work/") }.map { String($0.dropFirst(5)) }
    }
}
