/// The answer to a daemon (section 12.7).
extension PolicyEngine {
    /// A target as text.
    public func text(of target: CallTarget) -> String {
        var bytes: [UInt8] = []
        append(target, to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Appends the answer for a decision, with the file and line that decided as `rule=` and, when
    /// denied, `reason=`, which older readers ignore. A question that nobody was asked is a denial.
    ///
    /// - Parameters:
    ///   - service: as requested, with or without its `+`.
    ///   - out: at most `Self.answerLimit` bytes are appended; an answer that would be longer
    ///     becomes a denial.
    public func appendAnswer(
        to decision: Decision, service: Span<UInt8>, to out: inout [UInt8]
    ) {
        let start = out.count
        if decision.outcome == .allow {
            appendAllowed(decision, service, &out)
            appendRule(decision, &out)
            if out.count - start <= Self.answerLimit { return }
            out.removeLast(out.count - start)
        }
        out.append("result=deny\n")
        appendRule(decision, &out)
        out.append("reason=")
        switch decision.outcome {
        case .allow: out.append("the answer is too long")
        case .ask: out.append(DenialReason.noPrompt.text)
        case .deny: out.append(decision.reason.text)
        }
        out.append("\n")
    }

    /// What a daemon takes (section 6).
    public static var answerLimit: Int { 4095 }

    private func appendAllowed(
        _ decision: Decision, _ service: Span<UInt8>, _ out: inout [UInt8]
    ) {
        let rule = policy.rules[Int(decision.rule)]
        let target = decision.target
        let isRemote =
            target.kind == .qube && system.qubes[Int(target.qube)].type == "RemoteVM"
        let relay = isRemote ? system.relays[Int(target.qube)] : -1
        let final = isRemote ? CallTarget(.qube, qube: relay) : target
        out.append("user=")
        if rule.user >= 0 && !isRemote {
            out.appendPrintable(policy.symbols[rule.user])
        } else {
            out.append("DEFAULT")
        }
        out.append("\nresult=allow\ntarget=")
        if isRemote && relay == system.adminQube {
            out.append("dom0")
        } else {
            append(final, to: &out)
        }
        out.append("\n")
        if final.kind != .adminQube, let uuid = system.qubes[Int(final.qube)].uuid {
            out.append(
                final.kind == .disposableOf ? "target_uuid=@dispvm:uuid:" : "target_uuid=uuid:")
            out.append(uuid)
            out.append("\n")
        }
        out.append(rule.autostart ? "autostart=True\n" : "autostart=False\n")
        out.append("requested_target=")
        append(decision.requested, to: &out)
        out.append("\n")
        if isRemote {
            out.append("service=")
            out.append(system.qubes[Int(target.qube)].transportService ?? "")
            out.append("+")
            // The requested target, as the reference has it, but where that says nothing.
            append(decision.requested.kind == .qube ? decision.requested : target, to: &out)
            out.append("+")
            var hasPlus = false
            for index in service.indices {
                if service[index] == UInt8(ascii: "+") { hasPlus = true }
                out.append(printable(service[index]))
            }
            out.append(hasPlus ? "\n" : "+\n")
        }
        // A service of dom0 sees the relay as its source, as with the reference (section 12.7).
        if decision.isRelayed && final.kind != .adminQube {
            out.append("policy_source=")
            out.append(system.qubes[Int(decision.source)].name)
            out.append("\n")
        }
    }

    /// The rule's file is cut at its beginning when it is long: its end tells more.
    private func appendRule(_ decision: Decision, _ out: inout [UInt8]) {
        if decision.rule < 0 { return }
        let rule = policy.rules[Int(decision.rule)]
        let path = policy.files[Int(rule.file)].path
        out.append("rule=")
        for byte in path.utf8.suffix(255) { out.append(printable(byte)) }
        out.append(":")
        out.append(decimal: Int(rule.line))
        out.append("\n")
    }

    private func append(_ target: CallTarget, to out: inout [UInt8]) {
        switch target.kind {
        case .default: out.append("@default")
        case .disposable: out.append("@dispvm")
        case .adminQube:
            switch target.spelling {
            case .keyword: out.append("@adminvm")
            case .name: out.append("dom0")
            case .uuid: out.append(adminUUID)
            }
        case .qube: appendName(target, to: &out)
        case .disposableOf:
            out.append("@dispvm:")
            appendName(target, to: &out)
        }
    }

    private func appendName(_ target: CallTarget, to out: inout [UInt8]) {
        let qube = system.qubes[Int(target.qube)]
        if target.spelling == .uuid, let uuid = qube.uuid {
            out.append("uuid:")
            out.append(uuid)
        } else {
            out.append(qube.name)
        }
    }
}

/// A byte that cannot spoil a line.
func printable(_ byte: UInt8) -> UInt8 {
    byte > 0x20 && byte < 0x7f ? byte : UInt8(ascii: "_")
}

extension [UInt8] {
    mutating func append(_ text: String) { append(contentsOf: text.utf8) }

    mutating func appendPrintable(_ bytes: ArraySlice<UInt8>) {
        for byte in bytes.prefix(255) { append(printable(byte)) }
    }

    mutating func append(decimal number: Int) {
        if number >= 10 { append(decimal: number / 10) }
        append(UInt8(ascii: "0") + UInt8(number % 10))
    }
}
