/// The command line of `qfile-unpacker` and of the service `qubes.Filecopy` (specification 15.4).
struct UnpackerOptions: Equatable {
    var verbose = false
    /// Bytes to keep free; nil does not wait for space.
    var waitForSpace: UInt64?
    var allowAllNames = false
    var allowUnsafeLinks = false
    var existing: ExistingFile?
    /// Who owns the files; nil is the caller.
    var user: UInt32?
    /// The same by name, as dom0 gives it.
    var userName: String?
    /// Whether everything but files is refused.
    var onlyRegularFiles = false
    /// Whether size and number of files have a limit, as for updates in dom0.
    var isLimited = false
    /// Where they go; nil is `~/QubesIncoming/<source>`.
    var directory: String?

    /// Why a command line was refused.
    struct Problem: Error, Equatable { var text: String }

    /// The service's only argument: '' or `allow-all-names`.
    static func service(_ arguments: [String]) throws(Problem) -> UnpackerOptions {
        var options = UnpackerOptions()
        switch arguments.first ?? "" {
        case "" where arguments.count <= 1: break
        case "allow-all-names" where arguments.count == 1: options.allowAllNames = true
        default: throw Problem(text: "the only argument of this service is allow-all-names")
        }
        return options
    }

    init() {}

    init(parsing arguments: [String]) throws(Problem) {
        if arguments.count >= 2, arguments[0].utf8.first.map({ (0x30...0x39).contains($0) }) == true
        {
            try parseOldForm(arguments)
            return
        }
        var rest = arguments[...]
        while let option = rest.first, option.utf8.first == UInt8(ascii: "-"), option != "-" {
            rest.removeFirst()
            if option == "--" { break }
            if option.hasPrefix("--") {
                try parse(option, &rest)
            } else {
                try parse(letters: option.dropFirst(), &rest)
            }
        }
        try parseOperands(Array(rest))
    }

    /// Short options, which may stand together: `-v`, `-w N`, `-wN`, `-vwN`.
    private mutating func parse(
        letters: Substring, _ rest: inout ArraySlice<String>
    ) throws(Problem) {
        var letters = letters
        while let letter = letters.popFirst() {
            switch letter {
            case "v": verbose = true
            case "w" where letters.isEmpty: try parse("--wait-for-space", &rest)
            case "w": return try setWait(String(letters))
            default: throw Problem(text: "unknown option -\(letter)")
            }
        }
    }

    private mutating func parse(
        _ option: String, _ rest: inout ArraySlice<String>
    ) throws(Problem) {
        switch option {
        case "--verbose": verbose = true
        case "--wait-for-space":
            guard let value = rest.popFirst() else {
                throw Problem(text: "\(option) needs a number of bytes")
            }
            try setWait(value)
        case "--allow-all-names": allowAllNames = true
        case "--no-allow-all-names": allowAllNames = false
        case "--allow-unsafe-symlinks": allowUnsafeLinks = true
        case "--no-allow-unsafe-symlinks": allowUnsafeLinks = false
        case "--existing=refuse": existing = .refuse
        case "--existing=rename": existing = .rename
        case let long where long.hasPrefix("--wait-for-space="):
            try setWait(String(long.dropFirst("--wait-for-space=".count)))
        default: throw Problem(text: "unknown option \(option)")
        }
    }

    /// dom0's `USER DIR [-v] [-w [N]] [--only-regular-files]`.
    init(dom0 arguments: [String]) throws(Problem) {
        guard arguments.count >= 2, !arguments[0].hasPrefix("-") else {
            throw Problem(text: "expected a user and a directory")
        }
        userName = arguments[0]
        directory = arguments[1]
        isLimited = true
        try parseTail(arguments[2...])
    }

    private mutating func setWait(_ value: String) throws(Problem) {
        guard let bytes = UInt64(value) else {
            throw Problem(text: "\(value) is not a number of bytes")
        }
        waitForSpace = bytes
    }

    private mutating func parseOperands(_ operands: [String]) throws(Problem) {
        if operands.count > 2 { throw Problem(text: "too many arguments") }
        if let first = operands.first {
            guard let uid = UInt32(first) else {
                throw Problem(text: "\(first) is not a user number")
            }
            user = uid
        }
        if operands.count == 2 { directory = operands[1] }
    }

    /// `UID DIR [-v] [-w [N]]`.
    private mutating func parseOldForm(_ arguments: [String]) throws(Problem) {
        try parseOperands(Array(arguments[..<2]))
        try parseTail(arguments[2...])
    }

    /// Options behind the operands.
    private mutating func parseTail(_ arguments: ArraySlice<String>) throws(Problem) {
        var rest = arguments
        while let option = rest.popFirst() {
            switch option {
            case "-v": verbose = true
            case "-w":
                waitForSpace = 0
                if let value = rest.first, !value.hasPrefix("-") || !isLimited {
                    rest.removeFirst()
                    try setWait(value)
                }
            case "--only-regular-files" where isLimited: onlyRegularFiles = true
            default: throw Problem(text: "unknown option \(option)")
            }
        }
    }
}
