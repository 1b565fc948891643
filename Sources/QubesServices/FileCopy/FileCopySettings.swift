/// What the receiving qube decides about file copies, in `filecopy.conf`:
///
/// * `existing = refuse` (default) or `rename`.
struct FileCopySettings: Equatable {
    var existing = ExistingFile.refuse

    /// Reads the files of this qube and of the user; the cautious choice where they are wrong.
    static func load(home: String) -> FileCopySettings {
        var settings = Settings(keys: ["existing"])
        settings.load(file: "filecopy.conf", home: home)
        return FileCopySettings(settings)
    }

    init() {}

    init(_ settings: Settings) {
        guard let value = settings.values["existing"] else { return }
        if let choice = ExistingFile(rawValue: value) {
            existing = choice
        } else {
            complain("filecopy.conf", "existing = \(value): expected refuse or rename")
        }
    }
}
