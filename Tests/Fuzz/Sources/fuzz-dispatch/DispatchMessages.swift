import QrexecDom0

/// What a confined daemon sends to the dispatcher: read the same again when written, or refused.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzDispatch(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    guard let message = try? DispatchMessage(bytes) else { return 0 }
    guard let again = try? DispatchMessage(message.bytes), again == message else {
        preconditionFailure("a message that changes when it is written")
    }
    if let channel = try? ChannelWords(message) {
        let port = channel.port.rawValue
        precondition(port == 512 || (513...768).contains(port))
        precondition(message.word == "channel")
    }
    if let call = try? CallWords(message) {
        precondition(call.service.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != 0x2F })
        precondition(call.target.utf8.count <= 63)
    }
    return 0
}
