import Glibc
import LinuxSystem
import SystemPackage
import Testing

@testable import QrexecRuntime

/// Runs a loop until something was seen; a broken test fails instead of hanging.
func run(_ loop: EventLoop, until done: @escaping () -> Bool) throws {
    let timer = loop.schedule(after: seconds(30)) {
        Issue.record("nothing happened")
        loop.stop()
    }
    func look() {
        if done() { loop.stop() } else { loop.schedule(after: milliseconds(1)) { look() } }
    }
    loop.schedule(after: 0) { look() }
    try loop.run()
    loop.cancel(timer)
}

/// Runs a loop for a moment: long enough for whatever should not happen.
func run(_ loop: EventLoop, for nanoseconds: UInt64) throws {
    loop.schedule(after: nanoseconds) { loop.stop() }
    try loop.run()
}

func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

/// A reproducible stream of bytes in which every position differs from its neighbours.
func pattern(from start: Int = 0, count: Int) -> [UInt8] {
    (start..<start + count).map { UInt8(truncatingIfNeeded: $0 &* 167 &+ $0 >> 8) }
}

/// A directory with a few files and links in it.
struct Scene: ~Copyable {
    let directory: TemporaryDirectory
    var path: String { directory.path }

    init() throws { directory = try TemporaryDirectory(prefix: "/tmp/qrexec-runtime-test") }

    func makeFile(_ name: String, _ content: String = "", mode: UInt32 = 0o644) throws {
        let file = try Descriptor.open("\(path)/\(name)", O_WRONLY | O_CREAT | O_TRUNC, mode: mode)
        try file.writeAll(bytes(content))
    }

    func makeLink(_ name: String, to text: String) throws {
        try FileStatus.makeLink("\(path)/\(name)", to: text)
    }

    func makeDirectory(_ name: String) throws {
        try PathStatus.makeDirectory("\(path)/\(name)", mode: 0o755)
    }
}
