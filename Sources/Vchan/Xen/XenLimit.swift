import SystemPackage

/// A limit of Xen, of its drivers, its store or this process, and how to raise it.
public enum XenLimit: Sendable, Hashable {
    /// Pages that this domain shares with others.
    case grants(pages: Int)
    /// Pages of another domain mapped here.
    case mappings(pages: Int, DomainID)
    case eventChannels
    /// Entries that this domain has in the store.
    case storeEntries
    case storeWatches
    case descriptors
    case memory
}

extension XenLimit: CustomStringConvertible {
    public var description: String {
        switch self {
        case .grants(let pages):
            "sharing \(pages) more pages: this domain may share as many as "
                + "/sys/module/xen_gntalloc/parameters/limit says (1024 unless it was changed; a "
                + "channel with rings of 64 KiB takes 33): write a larger number there, or load "
                + "xen-gntalloc with limit=N; beyond that max_grant_frames in the domain's xl "
                + "configuration (gnttab_max_frames= for Xen itself)"
        case .mappings(let pages, let domain):
            "mapping \(pages) pages of domain \(domain): if it has not taken them back, raise "
                + "max_maptrack_frames in this domain's xl configuration (1024 unless it was "
                + "changed, each for 256 pages; gnttab_max_maptrack_frames= for Xen itself)"
        case .eventChannels:
            "no event channel is free: raise max_event_channels in this domain's xl configuration "
                + "(1023 unless it was changed)"
        case .storeEntries:
            "xenstored takes no more entries of this domain (1000 unless it was changed, 3 for "
                + "each vchan that waits for its client): raise its --entry-nb (XENSTORED_ARGS in "
                + "/etc/default/xencommons), or wait for fewer clients at a time"
        case .storeWatches:
            "xenstored takes no more watches of this domain (128 unless it was changed, one for "
                + "each peer of a process, and 2 for a vchan that waits for its server): raise "
                + "its --watch-nb (XENSTORED_ARGS in "
                + "/etc/default/xencommons), or wait for fewer servers at a time"
        case .descriptors:
            "no descriptor is free: raise LimitNOFILE= of the service or ulimit -n (a vchan takes 3)"
        case .memory:
            "the kernel has no memory for it: give this domain more (memory and maxmem in its xl "
                + "configuration)"
        }
    }

    /// A limit that any call can meet; nil for an error that is none.
    static func common(_ error: Errno) -> XenLimit? {
        switch error {
        case .tooManyOpenFiles, .tooManyOpenFilesInSystem: .descriptors
        case .noMemory: .memory
        default: nil
        }
    }
}

extension VchanError {
    /// What went wrong at opening a device of Xen's drivers.
    static func opening(_ path: String, module: String, _ error: Errno) -> VchanError {
        if let limit = XenLimit.common(error) { return .limit(limit, error) }
        return .missingDevice(path, module: module, error)
    }

    /// What went wrong in a call of Xen's libraries.
    ///
    /// - Parameter full: the limit that ENOSPC means there.
    static func xen(_ call: String, _ error: Errno, full: XenLimit?) -> VchanError {
        if error == .noSpace, let full { return .limit(full, error) }
        if let limit = XenLimit.common(error) { return .limit(limit, error) }
        return .system(call: call, error)
    }
}
