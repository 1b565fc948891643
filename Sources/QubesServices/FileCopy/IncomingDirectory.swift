import Glibc
package import LinuxSystem
import QrexecProtocol
import SystemPackage

/// Where received files go, and shutting the receiver in there (specification 15.3).
package enum IncomingDirectory {
    /// The user who owns what is received.
    package struct Owner {
        let user: UInt32
        let group: UInt32
        let home: String

        package init(user: UInt32, group: UInt32, home: String) {
            self.user = user
            self.group = group
            self.home = home
        }
    }

    package struct Failure: Error {
        let errno: Errno
        package let text: String
    }

    /// Opens the directory, and creates it if need be, with the rights of its owner.
    ///
    /// - Parameter path: nil is `~/QubesIncoming/<QREXEC_REMOTE_DOMAIN>`.
    package static func open(_ path: String?, for owner: Owner) throws(Failure) -> Descriptor {
        try Confinement.acting(as: owner.user, group: owner.group) { () throws(Failure) in
            if let path { return try create(path) }
            guard let source = CurrentProcess.variable("QREXEC_REMOTE_DOMAIN"),
                Names.isDomainName(source)
            else {
                throw Failure(
                    errno: .invalidArgument,
                    text: "QREXEC_REMOTE_DOMAIN does not name a qube; "
                        + "give a directory when this is not started as a service")
            }
            let home = try create(owner.home)
            let all = try create("QubesIncoming", in: home, shownBelow: owner.home)
            return try create(source, in: all, shownBelow: "\(owner.home)/QubesIncoming")
        }
    }

    private static func bytes(_ path: String) -> [UInt8] { Array(path.utf8) + [0] }

    private static func create(_ path: String) throws(Failure) -> Descriptor {
        do throws(Errno) {
            try Descriptor.makeDirectory(bytes: bytes(path), mode: 0o700)
            return try Descriptor.open(bytes: bytes(path), O_RDONLY | O_DIRECTORY)
        } catch {
            throw failure(error, path)
        }
    }

    private static func create(
        _ name: String, in parent: borrowing Descriptor, shownBelow path: String
    ) throws(Failure) -> Descriptor {
        do throws(Errno) {
            do throws(Errno) {
                try parent.makeDirectory(bytes(name), mode: 0o700)
            } catch .fileExists {}
            return try parent.openBeneath(bytes(name), O_RDONLY | O_DIRECTORY)
        } catch {
            throw failure(error, "\(path)/\(name)")
        }
    }

    private static func failure(_ error: Errno, _ path: String) -> Failure {
        let hint =
            switch error {
            case .notDirectory, .tooManySymbolicLinkLevels:
                "; it must be a directory itself, not a file or a link to one"
            default: ""
            }
        return Failure(errno: error, text: "\(path): \(error.message)\(hint)")
    }

    /// Gives up everything but the directory: as root through a root and a mount of its own, then
    /// the user's identity, then Landlock, then every system call that files do not need. A kernel
    /// that lacks one of these keeps the others, and every open stays beneath the directory and off
    /// symbolic links.
    ///
    /// Who takes this process over afterwards can write, replace and remove files in the directory of
    /// the qube that sent them, and answer to it; it reads no file, reaches no socket or network,
    /// starts and signals no program.
    package static func confine(
        to directory: consuming Descriptor, as owner: Owner
    ) throws(Failure) -> Descriptor {
        Confinement.clearUmask()
        var root = directory
        do throws(Errno) {
            if CurrentProcess.effectiveUser == 0 {
                do throws(Errno) {
                    root = try Confinement.enter(root: root)
                } catch .notPermitted {
                } catch .noFunction {
                } catch .invalidArgument {}
                try Confinement.become(user: owner.user, group: owner.group)
            }
        } catch {
            throw Failure(errno: error, text: "cannot give up rights: \(error.message)")
        }
        do throws(Errno) {
            try Confinement.allowOnly(beneath: root)
        } catch .noFunction {
        } catch .notSupportedOnSocket {
        } catch {
            throw Failure(errno: error, text: "cannot shut the receiver in: \(error.message)")
        }
        do throws(Errno) {
            try Confinement.allowOnlyFileCalls()
        } catch .noFunction {
        } catch .invalidArgument {
        } catch {
            throw Failure(errno: error, text: "cannot shut the receiver in: \(error.message)")
        }
        return root
    }
}
