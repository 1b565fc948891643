import Glibc
import LinuxSystem
import SystemPackage

/// The last component of the name that a program was started by.
func programName(_ path: String) -> String {
    String(path[(path.lastIndex(of: "/").map { path.index(after: $0) } ?? path.startIndex)...])
}

/// One line on standard error: the program's name and a text. Nobody left to read it is no error.
func complain(_ program: String, _ text: String) {
    try? Descriptor.writeAll(Array("\(program): \(text)\n".utf8), to: 2)
}

/// Text on standard output.
func say(_ text: String) {
    try? Descriptor.writeAll(Array(text.utf8), to: 1)
}
