import LinuxSystem
import SystemPackage

/// Looks through what is to be copied before anything is sent: names and links by the rules of the
/// receiver (specification 15.3), and the size of all.
struct TreeCheck {
    struct Options: Equatable {
        var ignoreLinks = false
        var allowLinks = true
        var allowDirectories = true
        var allowAllNames = false
        /// Whether the sizes are added up, which costs a look at each file.
        var countsBytes = true
    }

    /// What was found.
    struct Finding: Equatable {
        /// Bytes of contents of all files, if they were to be counted.
        var totalBytes: UInt64 = 0
        var files: UInt64 = 0
        /// The first name that only a receiver takes that allows all names.
        var firstUnusualName: [UInt8]?
    }

    let options: Options

    /// Looks at the arguments.
    ///
    /// - Throws: the first file that no receiver takes.
    func check(_ arguments: [String]) throws(FileProblem) -> Finding {
        var finding = Finding()
        for argument in arguments {
            var walk = try TreeWalk(argument)
            try check(&walk, &finding)
        }
        return finding
    }

    private func check(_ walk: inout TreeWalk, _ finding: inout Finding) throws(FileProblem) {
        while true {
            let kind: FileKind
            switch try walk.next() {
            case .end: return
            case .leave: continue
            case .entry(let found): kind = found
            }
            switch kind {
            case .special: continue
            case .symbolicLink where options.ignoreLinks: continue
            case .symbolicLink:
                if !options.allowLinks { throw FileProblem(walk.shownPath, "is a symbolic link") }
                try checkLink(walk, &finding)
            case .directory:
                if !options.allowDirectories {
                    throw FileProblem(walk.shownPath, "is a directory")
                }
                try checkName(walk, &finding)
                _ = try walk.enter()
            case .regular:
                try checkName(walk, &finding)
                if options.countsBytes { finding.totalBytes &+= try walk.attributes().size }
                finding.files += 1
            }
        }
    }

    private func checkName(
        _ walk: borrowing TreeWalk, _ finding: inout Finding
    ) throws(FileProblem) {
        if walk.path.count > NameRules.maximumLength {
            throw FileProblem(walk.shownPath, "the path is too long to be sent")
        }
        // The parents have been checked, the shape of a path from the system is good.
        let name = walk.path.span.extracting(walk.leaf..<(walk.path.count - 1))
        if finding.firstUnusualName == nil && !NameRules.hasAllowedCharacters(name) {
            finding.firstUnusualName = walk.shownPath
        }
    }

    private func checkLink(
        _ walk: borrowing TreeWalk, _ finding: inout Finding
    ) throws(FileProblem) {
        try checkName(walk, &finding)
        let (path, leaf) = (walk.path, walk.leaf)
        let target = try walk.inDirectory { dir throws(Errno) in
            try dir.target(of: path, from: leaf, limit: NameRules.maximumLength)
        }
        do throws(NameRules.Violation) {
            try NameRules(allowAllNames: true).check(
                link: path.span.extracting(..<(path.count - 1)), target: target.span)
        } catch {
            throw FileProblem(walk.shownPath, Self.explain(error))
        }
        if finding.firstUnusualName == nil && !NameRules.hasAllowedCharacters(target.span) {
            finding.firstUnusualName = walk.shownPath
        }
    }

    private static func explain(_ violation: NameRules.Violation) -> String {
        switch violation {
        case .linkAtTop:
            "is a symbolic link, which can be sent only as part of a directory; "
                + "copy what it points to, or use --ignore-symlinks"
        case .linkTarget:
            "is a symbolic link that leads out of what is copied, which the other qube refuses; "
                + "use --ignore-symlinks to leave such links out"
        case .character, .path: "has a name that cannot be sent"
        }
    }
}
