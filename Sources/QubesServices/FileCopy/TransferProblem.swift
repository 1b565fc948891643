import Glibc
import LinuxSystem
import SystemPackage

/// What the code of an answer means to the person who copies, and what to do about it.
enum TransferProblem {
    /// One or two sentences without a full stop at the end.
    static func describe(_ result: TransferResult) -> String {
        let name = result.lastName.map { "\"\(displayable($0))\": " } ?? ""
        return name + reason(result.code)
    }

    private static func reason(_ code: UInt32) -> String {
        switch code {
        case TransferResult.brokenOff: return "the other qube saw the copy break off here"
        case UInt32(EREMOTEIO): return "the other qube got no end of the copy"
        case UInt32(EEXIST):
            return "exists already in the other qube, which never overwrites; "
                + "move or rename it there, or rename yours"
        case UInt32(EINVAL): return "the other qube does not understand this entry (corrupt data?)"
        case UInt32(EILSEQ):
            return "the other qube refuses this name; rename the file, or let it accept all names"
        case UInt32(ENOLINK):
            return "the other qube refuses this symbolic link, because it leads out of what is "
                + "copied; try --ignore-symlinks"
        case UInt32(EDQUOT): return "the other qube's limit for size or number of files is reached"
        case UInt32(ENOSPC): return "the other qube's disk is full; make room there"
        case UInt32(ENAMETOOLONG): return "the name is too long for the other qube"
        default:
            if code > 4095 { return "the other qube reports the unknown error \(code)" }
            return "the other qube says: \(Errno(rawValue: Int32(code)).message)"
        }
    }
}
