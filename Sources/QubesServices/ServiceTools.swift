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
        ].merging(running) { tool, _ in tool }.merging(system) { tool, _ in tool }
    }

    /// Programs in other qubes, and connections to them.
    private static var running: [String: (_ arguments: [String]) -> Int32] {
        [
            "qvm-run-vm": RunInVMTool.run,
            "qvm-connect-tcp": ConnectTCPTool.run,
            "qubes-vmexec": VMExecTool.run,
            "qubes.VMExec": VMExecTool.run,
            "qubes.VMExecGUI": VMExecTool.run,
            "qubes.VMRootExec": VMExecTool.run,
            "qubes.VMShell": ShellService.run,
            "qubes.VMRootShell": ShellService.run,
            "qubes.StartApp": StartAppService.run,
        ]
    }

    /// Services about the qube itself.
    private static var system: [String: (_ arguments: [String]) -> Int32] {
        var tools: [String: (_ arguments: [String]) -> Int32] = [
            "qubes.GetDate": GetDateService.run,
            "qubes.SetDateTime": SetDateTimeService.run,
            "qubes.WaitForSession": WaitForSessionService.run,
            "qubes.WaitForRunningSystem": WaitForRunningSystemService.run,
            "qubes.SelectFile": SelectFileService.run,
            "qubes.SelectDirectory": SelectFileService.run,
            "qubes.PostInstall": PostInstallService.run,
            "qubes.GetImageRGBA": GetImageService.run,
            "qubes.ClipboardCopy": ClipboardServices.copy,
            "qubes.ClipboardPaste": ClipboardServices.paste,
        ]
        for name in SuspendServices.names { tools[name] = SuspendServices.run }
        return tools
    }

    /// The tools of this module that dom0 has, by name. A service that qubes have too is started by
    /// a link of dom0's own.
    public static var dom0: [String: (_ arguments: [String]) -> Int32] {
        [
            "qubes.FeaturesRequest": FeaturesRequestService.run,
            "qubes.GetDate": GetDateService.run,
            "qubes-clipboard": ClipboardTool.run,
            "qvm-run": QubeRunTool.run,
            "qvm-copy": CopyTool.run,
            "qvm-move": CopyTool.run,
            "qvm-copy-to-vm": CopyTool.run,
            "qvm-move-to-vm": CopyTool.run,
            "qfile-dom0-agent": FileAgentTool.run,
            "qfile-dom0-unpacker": FileUnpackerTool.run,
        ]
    }
}
