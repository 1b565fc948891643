import QrexecProtocol

/// Whole sessions of a daemon: the first byte picks who speaks (an agent, a local client) and how
/// its bytes are cut; whatever comes, what the daemon acts on is harmless and bounded.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzDaemon(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    guard let first = bytes.first else { return 0 }
    let piece = Int(first >> 1) + 1
    if first & 1 == 0 { agent(bytes.dropFirst(), piece) } else { client(bytes.dropFirst(), piece) }
    return 0
}

/// Gives a conversation the messages of a stream that comes in pieces, until it throws.
private func converse(
    _ bytes: ArraySlice<UInt8>, _ piece: Int,
    checkLength: @escaping @Sendable (MessageType, Int) throws(ProtocolError) -> Void,
    _ receive: (MessageType, [UInt8]) throws -> Void
) {
    var assembler = MessageAssembler(checkLength: checkLength)
    var rest = bytes
    while !rest.isEmpty {
        assembler.append(rest.prefix(piece))
        rest = rest.dropFirst(piece)
        do {
            while let message = try assembler.next() { try receive(message.type, message.body) }
        } catch {
            return
        }
    }
}

private func agent(_ bytes: ArraySlice<UInt8>, _ piece: Int) {
    var conversation = AgentConversation()
    var hellos = 0
    converse(bytes, piece, checkLength: AgentConversation.checkLength) { type, body in
        switch try conversation.receive(type, body) {
        case .greeted(let version):
            hellos += 1
            precondition(hellos == 1 && (2...4).contains(version.rawValue))
        case .request(let request, _): check(request)
        case .malformed(let refusal): precondition(refusal.identField.count == 32)
        case .terminated(let place): precondition((513...768).contains(place.port))
        }
    }
}

private func check(_ request: ServiceRequest) {
    precondition(request.service.utf8.allSatisfy(Names.isServiceCharacter))
    precondition(!request.service.isEmpty && !request.service.hasPrefix("+"))
    precondition(request.service.utf8.count <= Limits.serviceDescriptor)
    precondition(request.target.utf8.allSatisfy(Names.isTargetCharacter))
    precondition(request.claimedSource.utf8.allSatisfy(Names.isTargetCharacter))
    precondition(max(request.target.utf8.count, request.claimedSource.utf8.count) <= 63)
    precondition(request.ident != nil)
    // What is asked cannot be read as anything else.
    let question = PolicyQuestion(
        source: "work", claimedSource: request.claimedSource, target: request.target,
        service: request.service)
    precondition(question.bytes.split(separator: 0x0A).count == 4)
}

private func client(_ bytes: ArraySlice<UInt8>, _ piece: Int) {
    var conversation = ClientConversation()
    var commands = 0
    converse(bytes, piece, checkLength: ClientConversation.checkLength) { type, body in
        guard let command = try conversation.receive(type, body) else {
            precondition(commands == 0)
            return
        }
        commands += 1
        precondition(commands == 1)
        switch command {
        case .execute(_, let request):
            precondition(isPort(request.connect.port))
            precondition(!request.command.contains(0))
            _ = try? Command(request.command, hasUser: true)
            _ = try? Command(request.command, hasUser: false)
        case .connect(let request): precondition(isPort(request.connect.port))
        }
    }
}

private func isPort(_ port: UInt32) -> Bool { port == 0 || (513...768).contains(port) }
