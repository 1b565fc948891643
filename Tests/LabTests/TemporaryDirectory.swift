import Glibc
import LinuxSystem
import SystemPackage

@testable import QubesLab

/// A directory that is removed with this object.
final class TemporaryDirectory {
    let path: String

    init() throws(Errno) {
        path = "/tmp/qubes-lab-test-\(UInt32.random(in: 0...UInt32.max))"
        try PathStatus.makeDirectory(path, mode: 0o755)
    }

    deinit { try? PathStatus.removeTree(path) }

    func write(_ name: String, _ text: String, mode: UInt32 = 0o644) throws(Errno) {
        try QubeFiles.write(text, to: "\(path)/\(name)", mode: mode)
    }
}
