import QrexecProtocol

/// What is understood of a message is written out again as it came, and never more is taken than was
/// allowed before the body was there.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzMessages(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    control(bytes)
    requests(bytes)
    command(bytes)
    if let answer = try? PolicyAnswer(bytes: bytes) {
        precondition(answer.permission?.target.isEmpty != true)
    }
    return 0
}

/// A stream to an agent, cut in two.
private func control(_ bytes: [UInt8]) {
    var assembler = MessageAssembler(checkLength: MessagesFromDom0.checkLength)
    let half = bytes.count / 2
    do {
        for part in [bytes[..<half], bytes[half...]] {
            assembler.append(part)
            while let (type, body) = try assembler.next() {
                precondition((try? MessagesFromDom0.checkLength(type, body.count)) != nil)
                try message(type, body)
            }
        }
    } catch {}
}

private func message(_ type: MessageType, _ body: [UInt8]) throws(ProtocolError) {
    switch type {
    case .hello:
        let version = try Hello(body: body).version
        if let agreed = try? ProtocolVersion.negotiated(theirs: version) {
            precondition(agreed.rawValue <= version && (2...4).contains(agreed.rawValue))
        }
    case .execCommandLine, .justExec:
        let request = try ExecRequest(body: body, of: type)
        precondition(request.body == body)
        command(request.command)
    case .serviceConnect:
        let connect = try ServiceConnect(body: body)
        precondition(connect.body == body)
    default:
        let refused = try ServiceRefused(body: body)
        precondition(refused.body == body)
    }
}

/// Requests of each version, as a local program or a qube's agent sends them.
private func requests(_ bytes: [UInt8]) {
    for type in [MessageType.triggerService, .triggerService3, .triggerService4] {
        guard case .success(let request)? = try? ServiceRequest.parse(type, bytes) else { continue }
        precondition(!request.service.isEmpty && request.ident != nil)
        precondition(request.body(.triggerService4).count <= 160 + Limits.serviceDescriptor)
        let clean = request.sanitised
        let words = clean.claimedSource + clean.target
        precondition(words.utf8.allSatisfy(Names.isTargetCharacter))
        precondition(clean.service.utf8.allSatisfy(Names.isServiceCharacter))
        // Whatever ident a client made up, the agent's own is what goes on.
        let ident = RequestIdent("SOCKET7")!
        let own = ServiceRequest.replacingIdent(type, bytes, with: ident)
        guard case .success(let replaced)? = try? ServiceRequest.parse(type, own) else {
            preconditionFailure("a request that is refused for the agent's own ident")
        }
        precondition(replaced.ident == ident && replaced.service == request.service)
    }
}

private func command(_ bytes: [UInt8]) {
    for hasUser in [true, false] {
        guard let command = try? Command(bytes, hasUser: hasUser) else { continue }
        precondition(command.user == nil || hasUser)
        guard case .service(let call) = command.kind else { continue }
        precondition((1...Limits.serviceName).contains(call.service.utf8.count))
        precondition(!call.descriptor.contains("/") && !call.source.isEmpty)
        precondition((try? Command(command.bytes, hasUser: hasUser)) == command)
    }
}
