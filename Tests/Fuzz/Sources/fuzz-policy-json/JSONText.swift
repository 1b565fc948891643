import QrexecPolicy

/// What is read and written out reads the same again; system information never stops the program.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzJSON(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    guard let value = try? JSONReader.read(bytes) else { return 0 }
    let text = Array(value.text.utf8)
    guard let again = try? JSONReader.read(text) else {
        preconditionFailure("what was written is not read")
    }
    precondition(again == value, "a value changed when it was written out")
    if let system = try? SystemInformation.read(value) {
        for qube in system.qubes { precondition(system.qube(named: qube.name) != nil) }
    }
    return 0
}
