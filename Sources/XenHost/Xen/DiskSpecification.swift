/// One entry of an xl configuration's `disk` list (xl-disk-configuration): which file or device it
/// is, and whether the domain may write to it.
struct DiskSpecification: Equatable {
    enum Problem: Error, Equatable {
        /// Only a disk's own script knows what its target means.
        case script
        case noTarget

        var reason: String {
            switch self {
            case .script: "a disk with a script cannot be copied"
            case .noTarget: "a disk without a target"
            }
        }
    }

    /// A path; empty for a drive without a disc.
    let target: String
    let isWritable: Bool
    /// What names the target in the domain (`xvda`), if told.
    let device: String?
    private let beforeTarget: String
    private let afterTarget: String

    /// - Parameter text: one string of the list.
    init(_ text: String) throws(Problem) {
        var writable: Bool?
        var isDrive = false
        var device: String?
        var positional = 0
        var found: (target: String, before: String, after: String)?
        var rest = text[...]
        while !rest.isEmpty {
            let field = rest.prefix { $0 != "," }
            let word = Self.trimmed(field)
            let before = String(text[..<word.startIndex])
            if word.hasPrefix("target=") {
                // Takes all that follows, commas too.
                let value = Self.trimmed(text[word.startIndex...].dropFirst(7))
                found = (String(value), before + "target=", "")
                break
            }
            if let (key, value) = Self.pair(word) {
                switch key {
                case "access": writable = Self.access(value)
                case "vdev": device = value
                case "devtype": isDrive = value == "cdrom"
                case "script": throw .script
                default: break
                }
            } else if word == "cdrom" || word.hasSuffix(":cdrom") {
                isDrive = true
                if word != "cdrom" { positional += 1 }
            } else if word.hasPrefix("script=") {
                throw .script
            } else if let access = Self.access(String(word)), positional > 0 {
                writable = access
            } else if positional == 0 {
                positional = 1
                let prefix = Self.prefixLength(word)
                let path = word.dropFirst(prefix)
                found = (
                    String(path), String(text[..<path.startIndex]), String(text[path.endIndex...])
                )
            } else {
                positional += 1
                if Self.isDevice(word) { device = String(word) }
            }
            rest = rest[field.endIndex...].dropFirst()
        }
        guard let found else {
            guard isDrive else { throw .noTarget }
            target = ""
            isWritable = false
            self.device = device
            beforeTarget = text
            afterTarget = ""
            return
        }
        target = found.target
        isWritable = !isDrive && writable ?? true
        self.device = device
        beforeTarget = found.before
        afterTarget = found.after
    }

    /// The entry for the same disk in another place.
    func with(target: String) -> String { beforeTarget + target + afterTarget }

    private static func pair(_ word: Substring) -> (key: String, value: String)? {
        guard let equals = word.firstIndex(of: "=") else { return nil }
        let key = word[..<equals]
        let known = ["format", "vdev", "access", "devtype", "backend", "backendtype", "script"]
        guard known.contains(String(key)) else { return nil }
        return (String(key), String(word[word.index(after: equals)...]))
    }

    private static func access(_ text: String) -> Bool? {
        switch text {
        case "r", "ro": false
        case "w", "rw", "!w": true
        default: nil
        }
    }

    private static func isDevice(_ word: Substring) -> Bool {
        word.hasPrefix("xvd") || word.hasPrefix("hd") || word.hasPrefix("sd")
    }

    /// Of the old prefixes: `phy:`, `file:`, `raw:`, `qcow2:`, `tap:aio:`…
    private static func prefixLength(_ word: Substring) -> Int {
        var length = 0
        var rest = word
        let known = ["phy:", "file:", "raw:", "qcow:", "qcow2:", "vhd:", "tap:", "tap2:", "aio:"]
        while let prefix = known.first(where: { rest.hasPrefix($0) }) {
            length += prefix.count
            rest = rest.dropFirst(prefix.count)
        }
        return length
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text.drop { $0 == " " || $0 == "\t" }
        while let last = text.last, last == " " || last == "\t" { text.removeLast() }
        return text
    }
}
