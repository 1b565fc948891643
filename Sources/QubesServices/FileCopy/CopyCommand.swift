import LinuxSystem
import QrexecRuntime

/// The command line of `qvm-copy` and its three relatives.
struct CopyCommand: Equatable {
    var program: String
    /// Whether what was sent is deleted here.
    var isMove: Bool
    /// Whom to call; `@default` lets the policy or a person choose.
    var target = "@default"
    var files: [String] = []
    var ignoreLinks = false
    /// Whether progress is shown on standard error; nil leaves it to the environment, and then to
    /// whether that is a terminal.
    var progress: Bool?

    struct Problem: Error, Equatable { var text: String }

    /// - Parameter program: the name that the program was started by.
    /// - Returns: nil when help or version was asked for, which is then printed.
    init?(program: String, _ arguments: [String]) throws(Problem) {
        self.program = program
        isMove = program.hasPrefix("qvm-move")
        var rest = arguments[...]
        while let option = rest.first, option.hasPrefix("-"), option != "-" {
            rest.removeFirst()
            if option == "--" { break }
            switch option {
            case "--with-progress": progress = true
            case "--without-progress": progress = false
            case "--ignore-symlinks": ignoreLinks = true
            case "--no-ignore-symlinks": ignoreLinks = false
            case "-h", "--help":
                say(Self.help(program))
                return nil
            case "--version":
                say(Version.line(program) + "\n")
                return nil
            default: throw Problem(text: "unknown option \(option)")
            }
        }
        if program.hasSuffix("-to-vm") {
            guard let name = rest.popFirst() else { throw Problem(text: "no qube given") }
            guard name.utf8.first.map({ $0 != UInt8(ascii: "-") }) == true else {
                throw Problem(text: "\"\(name)\" is not the name of a qube")
            }
            target = name
        }
        if rest.isEmpty { throw Problem(text: "no file given") }
        files = Array(rest)
    }

    private static func help(_ program: String) -> String {
        let hasTarget = program.hasSuffix("-to-vm")
        let verb = program.hasPrefix("qvm-move") ? "Moves" : "Copies"
        return """
            Usage: \(program) [OPTION]... [--] \(hasTarget ? "QUBE " : "")FILE...
            \(verb) files and directories to \
            \(hasTarget ? "QUBE" : "another qube, which you are asked for"). They arrive in
            ~/QubesIncoming/NAME-OF-THIS-QUBE there. Nothing is ever overwritten.\
            \(program.hasPrefix("qvm-move") ? deleting : "")

                  --with-progress      show progress (default on a terminal)
                  --without-progress   show none
                  --ignore-symlinks    leave symbolic links out
                  --no-ignore-symlinks send them (default)
              -h, --help               show this text
                  --version            show the version

            Exit status: 0 when everything arrived\
            \(program.hasPrefix("qvm-move") ? " and was deleted here" : ""), 1 for a failure, 2 for
            a wrong command line, 126 when the copy was refused, else that of the call.

            """
    }

    private static let deleting = """

        What was sent is deleted here after the other qube has confirmed that all of it is safely
        stored, and only if it did not change in between.
        """
}
