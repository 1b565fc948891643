/// The tools of this module by the names they are started by.
public enum ServiceTools {
    /// Each takes all of argv and returns its exit status.
    public static var all: [String: (_ arguments: [String]) -> Int32] {
        [
            "qvm-copy": CopyTool.run,
            "qvm-move": CopyTool.run,
            "qvm-copy-to-vm": CopyTool.run,
            "qvm-move-to-vm": CopyTool.run,
            "qfile-agent": FileAgentTool.run,
            "qfile-dom0-agent": FileAgentTool.run,
            "qfile-dom0-unpacker": FileUnpackerTool.run,
            "qfile-unpacker": FileUnpackerTool.run,
            "qubes.Filecopy": FileUnpackerTool.run,
            "tar2qfile": TarToStreamTool.run,
            "qvm-open-in-vm": OpenTool.run,
            "qvm-open-in-dvm": OpenTool.run,
            "qopen-in-vm": OpenSenderTool.run,
            "qubes-open": OpenHereTool.run,
            "qubes.OpenInVM": OpenInVMService.run,
            "qubes.OpenURL": OpenURLService.run,
            "qubes-fs-tree-check": TreeCheckTool.run,
        ]
    }
}
