import CLinuxSystem
import Glibc
public import SystemPackage

/// A directory of its own that is removed with everything in it when the value goes away.
public struct TemporaryDirectory: ~Copyable, Sendable {
    public let path: String

    /// - Parameter prefix: the path up to the part that makes it unique.
    public init(prefix: String) throws(Errno) {
        var template = Array((prefix + ".XXXXXX").utf8CString)
        // SAFETY: mkdtemp changes the array in place, within its NUL.
        let made = unsafe template.withUnsafeMutableBufferPointer {
            unsafe mkdtemp($0.baseAddress!) != nil
        }
        if !made { throw Errno(rawValue: errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    // SAFETY: a C string that outlives the call.
    deinit { _ = unsafe cs_remove_tree(path) }
}
