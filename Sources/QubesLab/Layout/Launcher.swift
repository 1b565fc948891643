import Glibc
import LinuxSystem
import SystemPackage

/// The process between the manager and bubblewrap: enters a user namespace of the qube's own and
/// gathers the directories that bubblewrap mounts (`SandboxPlan`), then becomes bubblewrap.
struct Launcher {
    private var base: UInt32?
    private var domain: UInt32 = 0
    private var parts: [SandboxPlan.Part] = []
    private var sandbox: [String] = []

    /// Ids of a qube when the lab is started by root.
    static let idCount: UInt32 = 65536

    static func run(_ arguments: [String]) -> Int32 {
        do throws(LabError) {
            let launcher = try Launcher(arguments)
            try launcher.enter()
            try launcher.execute()
        } catch {
            try? Descriptor.writeAll(Array("qubes-lab launch: \(error)\n".utf8), to: 2)
            return 125
        }
    }

    private init(_ arguments: [String]) throws(LabError) {
        var rest = arguments[...]
        while let option = rest.popFirst() {
            if option == "--" { break }
            guard let value = rest.popFirst() else { throw LabError("\(option) needs a value") }
            switch option {
            case "--base": base = UInt32(value)
            case "--domain": domain = UInt32(value) ?? 0
            case "--read-only", "--writable":
                guard let name = rest.popFirst() else {
                    throw LabError("\(option) needs two values")
                }
                parts.append(
                    SandboxPlan.Part(
                        source: value, name: name, readOnly: option == "--read-only"))
            default: throw LabError("unknown option \(option)")
            }
        }
        sandbox = Array(rest)
    }

    private func enter() throws(LabError) {
        do throws(Errno) {
            if base == nil {
                try Namespace.enterOwnNamespaces(id: Ownership.userID)
            } else {
                try Namespace.privateMounts()
            }
        } catch {
            throw LabError(
                "cannot make namespaces: \(error); the kernel must let this user make user namespaces "
                    + "(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, "
                    + "kernel.apparmor_restrict_unprivileged_userns)")
        }
        try gather()
        guard let base else { return }
        do throws(Errno) {
            try Namespace.enterUserNamespace(base: base, count: Self.idCount)
        } catch {
            throw LabError("cannot make a user namespace: \(error)")
        }
    }

    private func gather() throws(LabError) {
        let place = SandboxPlan.gathered
        // Sources may be below the place that is mounted over: they are opened first.
        var sources: [OwnedDescriptor] = []
        for part in parts {
            do throws(Errno) {
                let flags = openPathOnly | O_NOFOLLOW | O_DIRECTORY
                sources.append(OwnedDescriptor(try Descriptor.open(part.source, flags)))
            } catch {
                throw LabError("cannot open \(part.source): \(error)")
            }
        }
        do throws(Errno) {
            try Namespace.mountTemporary(at: place, options: "mode=0755,size=1m")
            for directory in ["xen", "xen/self", "xen/peers"] {
                try PathStatus.makeDirectory("\(place)/\(directory)", mode: 0o755)
            }
            try QubeFiles.write("\(domain)\n", to: "\(place)/xen/domid", mode: 0o444)
        } catch {
            throw LabError("cannot mount on \(place): \(error)")
        }
        for (index, part) in parts.enumerated() {
            let target = "\(place)/\(part.name)"
            do throws(Errno) {
                try PathStatus.makeDirectory(target, mode: 0o755)
                try sources[index].bind(to: target, readOnly: part.readOnly)
            } catch {
                throw LabError("cannot bind \(part.source): \(error)")
            }
        }
    }

    private func execute() throws(LabError) -> Never {
        guard let program = sandbox.first else { throw LabError("no program") }
        do throws(Errno) {
            try CurrentProcess.execute(
                program, sandbox, environment: CurrentProcess.environment)
        } catch {
            throw LabError("cannot start \(program): \(error)")
        }
    }
}

extension OwnedDescriptor {
    fileprivate func bind(to target: String, readOnly: Bool) throws(Errno) {
        try Namespace.bind(descriptor, to: target, readOnly: readOnly)
    }
}
