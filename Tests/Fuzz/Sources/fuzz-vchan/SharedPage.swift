import VchanTools

/// One channel, of which one end is used as it should be and the other does what the bytes say to the
/// shared page, the ring and the link: each call must return with a sane answer or a typed error.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzSharedPage(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    do {
        try Fuzzer.run(choices: bytes)
    } catch {
        fatalError("\(error)")
    }
    return 0
}
