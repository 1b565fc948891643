import QubesServices

/// What a stream means, summed up.
private struct Summary: Equatable {
    var entries = 0
    var refusedNames = 0
    var contents: UInt64 = 0
    var isComplete = false
    var failure: StreamDecoder.Failure?
}

/// Decodes bytes that come in pieces of a size, and checks what must hold for every stream.
private func summary(_ bytes: [UInt8], pieces: Int) -> Summary {
    var decoder = StreamDecoder()
    var result = Summary()
    var start = 0
    while start < bytes.count {
        let piece = Array(bytes[start..<min(start + pieces, bytes.count)])
        start += pieces
        var position = 0
        while true {
            let before = position
            do throws(StreamDecoder.Failure) {
                switch try decoder.next(piece.span, position: &position) {
                case .needMore:
                    precondition(position == piece.count, "asked for more before the end")
                case .entry:
                    precondition(decoder.name.last == 0 && decoder.name.count < 16384)
                    result.entries += 1
                    let name = decoder.name.span.extracting(..<(decoder.name.count - 1))
                    if (try? NameRules().check(name: name)) == nil { result.refusedNames += 1 }
                case .contents(let range):
                    precondition(range.lowerBound == before && range.upperBound == position)
                    precondition(!range.isEmpty && position <= piece.count)
                    result.contents += UInt64(range.count)
                case .entryEnd: break
                case .end:
                    result.isComplete = true
                    return result
                }
            } catch {
                result.failure = error
                return result
            }
            if position == piece.count && position == before { break }
        }
    }
    return result
}

/// One stream: it must mean the same in one piece and in many, and never stop the program.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzFileCopyStream(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    let whole = summary(bytes, pieces: max(bytes.count, 1))
    for pieces in [1, 7, 33] {
        precondition(summary(bytes, pieces: pieces) == whole, "pieces of \(pieces) differ")
    }
    if let answer = TransferResult(bytes.span) {
        precondition((0...255).contains(answer.exitStatus))
        precondition((answer.lastName?.count ?? 0) <= 16384)
        _ = displayable(answer.lastName ?? [])
    }
    return 0
}
