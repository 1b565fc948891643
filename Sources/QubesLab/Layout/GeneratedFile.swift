/// A file of a qube's /etc that the lab writes.
struct GeneratedFile {
    let path: String
    let text: String
    var mode: UInt32 = 0o644

    /// The search path of all programs in a qube.
    static let searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    /// Entries of the machine's /etc that a qube sees as they are.
    static let fromMachine = [
        "alternatives", "bash.bashrc", "ca-certificates", "dconf", "fonts", "gtk-3.0", "inputrc",
        "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types", "perl",
        "protocols", "python3", "python3.11", "python3.13", "rpc", "services", "ssl", "terminfo",
        "timezone", "xdg",
    ]

    /// - Parameters:
    ///   - uuid: of the qube; its machine-id is the same without dashes.
    ///   - hasAccounts: whether there are users beside `user`: not in a lab of an ordinary user.
    static func all(host: String, uuid: String, hasAccounts: Bool) -> [GeneratedFile] {
        [
            GeneratedFile(path: "etc/hostname", text: host + "\n"),
            GeneratedFile(
                path: "etc/hosts", text: "127.0.0.1 localhost \(host)\n::1 localhost \(host)\n"),
            GeneratedFile(path: "etc/machine-id", text: uuid.replacing("-", with: "") + "\n"),
            GeneratedFile(path: "etc/nsswitch.conf", text: nameServices),
            GeneratedFile(path: "etc/passwd", text: hasAccounts ? passwd : ownPasswd),
            GeneratedFile(path: "etc/group", text: hasAccounts ? group : ownGroup),
            GeneratedFile(path: "etc/shadow", text: hasAccounts ? shadow : "", mode: 0o640),
            GeneratedFile(path: "etc/profile", text: profile),
            GeneratedFile(path: "etc/shells", text: "/bin/sh\n/bin/bash\n/usr/bin/bash\n"),
            GeneratedFile(path: "etc/pam.d/qrexec", text: pam),
            GeneratedFile(path: "etc/pam.d/su", text: pam),
            GeneratedFile(path: "etc/pam.d/runuser", text: pam),
            GeneratedFile(path: "etc/pam.d/other", text: pamOther),
        ]
    }

    private static let nameServices = """
        passwd: files
        group: files
        shadow: files
        hosts: files
        services: files
        protocols: files

        """

    private static let passwd = """
        root:x:0:0:root:/root:/bin/bash
        daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
        bin:x:2:2:bin:/bin:/usr/sbin/nologin
        user:x:1000:1000:user:/home/user:/bin/bash
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin

        """

    private static let group = """
        root:x:0:
        daemon:x:1:
        bin:x:2:
        adm:x:4:
        tty:x:5:
        disk:x:6:
        sudo:x:27:user
        shadow:x:42:
        utmp:x:43:
        staff:x:50:
        qubes:x:98:user
        users:x:100:
        user:x:1000:
        nogroup:x:65534:

        """

    private static let shadow = """
        root:*:19000:0:99999:7:::
        daemon:*:19000:0:99999:7:::
        bin:*:19000:0:99999:7:::
        user:*:19000:0:99999:7:::
        nobody:*:19000:0:99999:7:::

        """

    private static let ownPasswd = """
        user:x:1000:1000:user:/home/user:/bin/bash
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin

        """

    /// There is one group only, so `qubes` is another name of it.
    private static let ownGroup = """
        user:x:1000:
        qubes:x:1000:user
        nogroup:x:65534:

        """

    private static let profile = """
        PATH=\(searchPath)
        export PATH
        umask 022
        if [ "${PS1-}" ] && [ "${BASH-}" ] && [ -f /etc/bash.bashrc ]; then
            . /etc/bash.bashrc
        fi
        for file in /etc/profile.d/*.sh; do
            [ -r "$file" ] && . "$file"
        done
        unset file

        """

    /// Nobody in a qube has a password: who may become whom is decided by who starts a program.
    private static let pam = """
        auth     required pam_permit.so
        account  required pam_permit.so
        session  required pam_permit.so

        """

    private static let pamOther = """
        auth     required pam_deny.so
        account  required pam_deny.so
        password required pam_deny.so
        session  required pam_deny.so

        """

    static let userPolicy = """
        # Rules of this lab's own; they come before the shipped ones. One rule a line:
        #
        #   service        argument  source    target    action
        #
        # Examples:
        #
        #   qubes.Filecopy *         work      @anyvm    deny
        #   my.Service     +         @tag:dev  vault     allow user=root
        #   my.Service     *         @anyvm    @default  allow target=work
        #
        # A change is in force for the next call.

        qubes.Filecopy * work personal allow

        """
}
