import LinuxSystem
import QrexecProtocol
import QrexecRuntime

/// The command line of `qvm-run`.
struct QubeRunCommand: Equatable {
    /// Where the command runs.
    enum Where: Equatable {
        case qube(String)
        /// A new disposable, from a template or, with nil, from dom0's default.
        case disposable(template: String?)
        /// All qubes that run, but these.
        case all(excluding: [String])
    }

    var place = Where.all(excluding: [])
    var words: [String] = []
    var user = "DEFAULT"
    var startsQubes = true
    var passesIO = false
    var localCommand: String?
    /// Whether the command has windows, and so needs a session.
    var hasWindows: Bool
    /// `--no-gui` was given: it is not to run inside the session either.
    var isOutsideSession = false
    /// ANSI colours (`31`) of the output and the errors.
    var outputColour: String?
    var errorColour: String?
    var filters: Bool
    /// The command is a service.
    var isService = false
    /// The words go to the program as they are.
    var isWithoutShell = false
    var verbosity = 1
    /// `help` or `version`, which is all that is wanted then.
    var shown: String?

    /// What the terminal and the session of the one who calls decide.
    struct Surroundings: Equatable {
        var outputIsTerminal = false
        var errorIsTerminal = false
        var hasDisplay = false
    }

    private static let parser = OptionParser(
        [
            .init(short: "u", long: "user", takesValue: true),
            .init(short: "a", long: "autostart"), .init(long: "auto"),
            .init(short: "n", long: "no-autostart"), .init(long: "no-auto"),
            .init(short: "p", long: "pass-io"), .init(long: "localcmd", takesValue: true),
            .init(long: "gui"), .init(long: "no-gui"), .init(long: "nogui"),
            .init(long: "colour-output", takesValue: true),
            .init(long: "color-output", takesValue: true),
            .init(long: "colour-stderr", takesValue: true),
            .init(long: "color-stderr", takesValue: true),
            .init(long: "no-colour-output"), .init(long: "no-color-output"),
            .init(long: "no-colour-stderr"), .init(long: "no-color-stderr"),
            .init(long: "filter-escape-chars"), .init(long: "no-filter-escape-chars"),
            .init(long: "service"), .init(long: "no-shell"),
            .init(long: "dispvm", takesValue: true), .init(long: "all"),
            .init(long: "exclude", takesValue: true),
            .init(short: "v", long: "verbose"), .init(short: "q", long: "quiet"),
            .init(short: "h", long: "help"), .init(long: "version"),
        ], stopsAtOperand: true)

    private var filterOption: Bool?
    private var template: String?
    private var isForAll = false
    private var excluded: [String] = []
    private var isColourless = (output: false, error: false)

    static func == (left: QubeRunCommand, right: QubeRunCommand) -> Bool {
        left.place == right.place && left.words == right.words && left.user == right.user
            && left.startsQubes == right.startsQubes && left.passesIO == right.passesIO
            && left.localCommand == right.localCommand && left.hasWindows == right.hasWindows
            && left.outputColour == right.outputColour && left.errorColour == right.errorColour
            && left.filters == right.filters && left.isService == right.isService
            && left.isWithoutShell == right.isWithoutShell && left.verbosity == right.verbosity
            && left.isOutsideSession == right.isOutsideSession && left.shown == right.shown
    }

    /// - Parameter list: the arguments without the program's name.
    init(_ list: [String], in surroundings: Surroundings) throws(OptionParser.UsageError) {
        hasWindows = surroundings.hasDisplay
        filters = surroundings.outputIsTerminal
        var operands = try parse(list)
        if shown != nil { return }
        if let template {
            place = .disposable(template: template.isEmpty ? nil : template)
        } else if isForAll {
            place = .all(excluding: excluded)
        } else {
            guard !operands.isEmpty else {
                throw OptionParser.UsageError("expected a qube and a command")
            }
            place = try Self.place(operands.removeFirst())
        }
        // Options may also stand between the qube and the command.
        words = try parse(operands)
        if shown != nil { return }
        if let filterOption { filters = filterOption }
        try complete(surroundings)
    }

    private mutating func parse(_ list: [String]) throws(OptionParser.UsageError) -> [String] {
        // The template may be left out, so it never is a word of its own.
        let end = list.firstIndex { $0 == "--" } ?? list.endIndex
        let plain = list[..<end].map { $0 == "--dispvm" ? "--dispvm=" : $0 } + list[end...]
        var copy = self
        let operands = try Self.parser.parse(plain) {
            (name, value) throws(OptionParser.UsageError) in try copy.set(name, value)
        }
        self = copy
        return operands
    }

    private mutating func set(
        _ name: String, _ value: String
    ) throws(OptionParser.UsageError) {
        switch name {
        case "user": user = value
        case "autostart", "auto": startsQubes = true
        case "no-autostart", "no-auto": startsQubes = false
        case "pass-io": passesIO = true
        case "localcmd": localCommand = value
        case "gui": (hasWindows, isOutsideSession) = (true, false)
        case "no-gui", "nogui": (hasWindows, isOutsideSession) = (false, true)
        case "colour-output", "color-output": outputColour = try Self.colour(value)
        case "colour-stderr", "color-stderr": errorColour = try Self.colour(value)
        case "no-colour-output", "no-color-output":
            (outputColour, isColourless.output) = (nil, true)
        case "no-colour-stderr", "no-color-stderr":
            (errorColour, isColourless.error) = (nil, true)
        case "filter-escape-chars": filterOption = true
        case "no-filter-escape-chars": filterOption = false
        case "service": isService = true
        case "no-shell": isWithoutShell = true
        case "dispvm": template = value
        case "all": isForAll = true
        case "exclude": excluded.append(value)
        case "verbose": verbosity += 1
        case "quiet": verbosity -= 1
        default: shown = name
        }
    }

    private static func colour(_ text: String) throws(OptionParser.UsageError) -> String {
        guard !text.isEmpty, text.utf8.count <= 16,
            text.utf8.allSatisfy({ (0x30...0x39).contains($0) || $0 == 0x3B })
        else { throw OptionParser.UsageError("'\(text)' is no colour: expected a number like 31") }
        return text
    }

    private static func place(_ name: String) throws(OptionParser.UsageError) -> Where {
        if name == "@dispvm" || name == "$dispvm" { return .disposable(template: nil) }
        for prefix in ["@dispvm:", "$dispvm:"] where name.hasPrefix(prefix) {
            return .disposable(template: String(name.dropFirst(prefix.count)))
        }
        if name == "dom0" || name == "@adminvm" {
            throw OptionParser.UsageError("dom0 is here: start the program itself")
        }
        try check(name)
        return .qube(name)
    }

    private static func check(_ name: String) throws(OptionParser.UsageError) {
        guard Names.isDomainName(name) || name.hasPrefix("uuid:") && !name.contains("/") else {
            throw OptionParser.UsageError("'\(LogText.line(name))' is no name of a qube")
        }
    }

    private mutating func complete(
        _ surroundings: Surroundings
    ) throws(OptionParser.UsageError) {
        if isForAll, template != nil { throw OptionParser.UsageError("--all excludes --dispvm") }
        if !isForAll, !excluded.isEmpty {
            throw OptionParser.UsageError("--exclude is for --all")
        }
        if case .disposable(let template?) = place { try Self.check(template) }
        guard !words.isEmpty else { throw OptionParser.UsageError("expected a command") }
        if isService, words.count > 1 || isWithoutShell {
            throw OptionParser.UsageError(
                "--service takes one SERVICE[+ARGUMENT] and no --no-shell")
        }
        if isService, words[0].isEmpty || !words[0].utf8.allSatisfy(Names.isServiceCharacter) {
            throw OptionParser.UsageError("'\(LogText.line(words[0]))' is no service")
        }
        guard !user.isEmpty, !user.contains(":") else {
            throw OptionParser.UsageError("'\(LogText.line(user))' is no user")
        }
        if localCommand != nil, !passesIO {
            throw OptionParser.UsageError("--localcmd needs --pass-io")
        }
        if isForAll, passesIO, localCommand == nil {
            throw OptionParser.UsageError("--pass-io with --all needs --localcmd")
        }
        if outputColour != nil, !filters {
            throw OptionParser.UsageError("--colour-output needs --filter-escape-chars")
        }
        // Without pass-io nothing of the qube is shown.
        guard passesIO, localCommand == nil else {
            (outputColour, errorColour) = (nil, nil)
            return
        }
        if outputColour == nil, filters, surroundings.outputIsTerminal, !isColourless.output {
            outputColour = "31"
        }
        if errorColour == nil, surroundings.errorIsTerminal, !isColourless.error {
            errorColour = "31"
        }
    }
}
