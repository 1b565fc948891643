import Glibc
import LinuxSystem
public import QrexecProtocol
import SystemPackage

/// A service's own settings (specification, section 11).
public struct RPCConfig: Sendable, Equatable {
    /// Wait for the target user's graphical session before the start.
    public var waitForSession = false
    /// Run as this user, whatever the policy or the caller said.
    public var forceUser: String?
    /// Do not send the descriptor to socket and TCP services.
    public var skipServiceDescriptor = false
    /// Socket and TCP services: end the call when the caller's input ends.
    public var exitOnClientEOF = false
    /// Socket and TCP services: end the call when the service's output ends.
    public var exitOnServiceEOF = false

    /// A file that makes the call fail with status 125.
    public struct Invalid: Error, Sendable, Equatable, CustomStringConvertible {
        public let path: String
        /// 1-based; 0 when the file could not be read.
        public let line: Int
        public let reason: String

        public var description: String { "\(path):\(line): \(reason)" }
    }

    public static let defaultPath =
        "/run/qubes/rpc-config:/usr/local/etc/qubes/rpc-config:/etc/qubes/rpc-config"

    public init() {}

    /// The settings of the first file found for `call` on QUBES_RPC_CONFIG_PATH or the default
    /// path, or the standard ones without a file.
    ///
    /// - Parameter ignored: called with each unknown key.
    public static func load(
        for call: ServiceCall, ignored: (String) -> Void
    ) throws(Invalid) -> RPCConfig {
        let path = CurrentProcess.variable("QUBES_RPC_CONFIG_PATH") ?? defaultPath
        let directories = path.split(separator: ":").map(String.init)
        let file: String
        do throws(ServiceLookup.Failure) {
            guard let found = try ServiceLookup.file(for: call, in: directories) else {
                return RPCConfig()
            }
            file = found.path
        } catch {
            throw Invalid(path: path, line: 0, reason: error.description)
        }
        let text: [UInt8]
        do throws(Errno) {
            // Opening and reading a pipe would wait for somebody to write into it.
            let opened = try Descriptor.open(file, O_NONBLOCK)
            guard try Descriptor.kind(of: opened.number) == .file else {
                throw Errno.invalidArgument
            }
            text = try opened.readAll(limit: maximumSize)
        } catch {
            throw Invalid(path: file, line: 0, reason: error.description)
        }
        return try RPCConfig(text: text, path: file, ignored: ignored)
    }

    /// Far above any real file; bounds the memory.
    static let maximumSize = 1 << 20

    init(text: [UInt8], path: String, ignored: (String) -> Void) throws(Invalid) {
        var seen: Set<String> = []
        var number = 0
        for bytes in text.split(separator: 0x0A, omittingEmptySubsequences: false) {
            number += 1
            func invalid(_ reason: String) -> Invalid {
                Invalid(path: path, line: number, reason: reason)
            }
            if bytes.contains(0) { throw invalid("a NUL byte") }
            var line = String(decoding: bytes, as: UTF8.self)
            if line.unicodeScalars.last == "\r" { line.unicodeScalars.removeLast() }
            if line.isEmpty || line.utf8.first == 0x23 { continue }
            let setting: Setting
            do throws(Setting.Invalid) {
                setting = try Setting(line: line)
            } catch {
                throw invalid(error.reason)
            }
            guard Self.knownKeys.contains(setting.key) else {
                ignored(setting.key)
                continue
            }
            guard seen.insert(setting.key).inserted else {
                throw invalid("'\(setting.key)' is set twice")
            }
            guard apply(setting) else {
                throw invalid("'\(setting.key)' has a value of the wrong type")
            }
        }
        if forceUser != nil, skipServiceDescriptor || exitOnClientEOF || exitOnServiceEOF {
            throw Invalid(
                path: path, line: number, reason: "force-user is for executable services only")
        }
    }

    private static let knownKeys: Set<String> = [
        "wait-for-session", "force-user", "skip-service-descriptor", "exit-on-client-eof",
        "exit-on-service-eof",
    ]

    private mutating func apply(_ setting: Setting) -> Bool {
        switch (setting.key, setting.value) {
        case ("wait-for-session", .bool(let on)): waitForSession = on
        case ("wait-for-session", .integer(let number)) where number <= 1:
            waitForSession = number == 1
        case ("force-user", .string(let name)) where !name.isEmpty: forceUser = name
        case ("skip-service-descriptor", .bool(let on)): skipServiceDescriptor = on
        case ("exit-on-client-eof", .bool(let on)): exitOnClientEOF = on
        case ("exit-on-service-eof", .bool(let on)): exitOnServiceEOF = on
        default: return false
        }
        return true
    }
}

/// One `key = value` line.
private struct Setting {
    enum Value {
        case bool(Bool)
        case integer(UInt64)
        case string(String)
    }

    struct Invalid: Error { let reason: String }

    let key: String
    let value: Value

    init(line: String) throws(Invalid) {
        guard let equals = line.firstIndex(of: "=") else {
            throw Invalid(reason: "expected key = value")
        }
        key = String(Self.withoutTrailingBlanks(line[..<equals]))
        guard let first = key.utf8.first, Self.isLetter(first),
            key.utf8.allSatisfy({
                Self.isLetter($0) || Self.isDigit($0) || $0 == 0x2E
                    || $0 == 0x5F || $0 == 0x2D
            })
        else { throw Invalid(reason: "'\(LogText.line(key))' is no key") }
        let text = line[line.index(after: equals)...].drop { $0 == " " || $0 == "\t" }
        value = try Self.value(text)
    }

    private static func value(_ text: Substring) throws(Invalid) -> Value {
        if text.hasPrefix("'") {
            let body = text.dropFirst()
            guard let end = body.firstIndex(of: "'") else {
                throw Invalid(reason: "the string has no closing quote")
            }
            let rest = body[body.index(after: end)...]
            guard !rest.hasPrefix("'"), isBlankOrComment(rest) else {
                throw Invalid(reason: "text behind the string")
            }
            return .string(String(body[..<end]))
        }
        if text.hasPrefix("\"") { throw Invalid(reason: "use single quotes") }
        let end = text.firstIndex { $0 == " " || $0 == "\t" || $0 == "#" } ?? text.endIndex
        let word = text[..<end]
        guard isBlankOrComment(text[end...]) else { throw Invalid(reason: "text behind the value") }
        if word == "true" { return .bool(true) }
        if word == "false" { return .bool(false) }
        guard !word.isEmpty, word.utf8.allSatisfy(isDigit), word == "0" || !word.hasPrefix("0"),
            let number = UInt64(word)
        else { throw Invalid(reason: "expected true, false, a number or a 'string'") }
        return .integer(number)
    }

    private static func isBlankOrComment(_ text: Substring) -> Bool {
        let rest = text.drop { $0 == " " || $0 == "\t" }
        return rest.isEmpty || rest.utf8.first == 0x23
    }

    private static func withoutTrailingBlanks(_ text: Substring) -> Substring {
        var text = text
        while text.last == " " || text.last == "\t" { text.removeLast() }
        return text
    }

    private static func isLetter(_ byte: UInt8) -> Bool {
        (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
    }

    private static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }
}
