import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Asks on a terminal, one question after another.
///
/// What was typed before a question stood there for a second is thrown away: nobody answers what
/// they have not read.
final class TerminalPrompt: PromptSurface {
    private final class Question {
        let request: PromptRequest
        let reply: (String?) -> Void

        init(_ request: PromptRequest, _ reply: @escaping (String?) -> Void) {
            self.request = request
            self.reply = reply
        }
    }

    private let loop: EventLoop
    private let input: Int32
    private let output: Int32
    private let onEnd: () -> Void
    private var queue: [Question] = []
    private var present: Question?
    private var isListening = false
    private var timer: EventLoop.Timer?
    private var line: [UInt8] = []

    /// - Parameter onEnd: called when the terminal is gone.
    init(
        _ loop: EventLoop, input: Int32 = 0, output: Int32 = 1, onEnd: @escaping () -> Void
    ) throws(Errno) {
        self.loop = loop
        self.input = input
        self.output = output
        self.onEnd = onEnd
        try loop.watch(input, .readable) { [unowned self] _ in self.read() }
    }

    deinit { loop.unwatch(input) }

    func ask(_ request: PromptRequest, _ reply: @escaping (String?) -> Void) -> () -> Void {
        let question = Question(request, reply)
        queue.append(question)
        if present == nil { next() }
        return { [weak self, weak question] in
            guard let self, let question else { return }
            self.queue.removeAll { $0 === question }
            if self.present === question {
                self.write("The call was given up by '\(question.request.source)'.\n\n")
                self.next()
            }
        }
    }

    func tell(_ notification: PromptNotification) { write("* \(notification.text)\n") }

    private func write(_ text: String) {
        try? Descriptor.writeAll(Array(text.utf8), to: output)
    }

    private func next() {
        if let timer { loop.cancel(timer) }
        isListening = false
        present = queue.isEmpty ? nil : queue.removeFirst()
        guard let question = present else { return }
        write(Self.text(question.request))
        timer = loop.schedule(after: PromptAgent.guardTime) { [weak self] in self?.listen() }
    }

    static func text(_ request: PromptRequest) -> String {
        let parts = request.serviceParts
        var text = "The qube '\(request.source)' wants to use "
        text += "\(parts.plain)\(parts.bold)\(request.shownArgument)\n"
        if let warning = request.warning { text += "! \(warning)\n" }
        for (index, target) in request.targets.enumerated() {
            let mark = target == request.preselected ? "  (Enter)" : ""
            let kind = target.hasPrefix("@dispvm:") ? "  a new disposable" : ""
            text += "  \(index + 1)  \(target)\(kind)\(mark)\n"
        }
        return text
    }

    private func listen() {
        timer = nil
        // Also what stands in an unfinished line.
        _ = tcflush(input, TCIFLUSH)
        drain()
        line = []
        isListening = true
        let preselected = present?.request.preselected.map { ", Enter for \($0)" } ?? ""
        write("Target: its number or name\(preselected); 'deny' or Escape to refuse: ")
    }

    /// Throws away what waits in a pipe or terminal.
    private func drain() {
        var buffer = [UInt8](repeating: 0, count: 1024)
        while true {
            var set = PollSet()
            set.add(input, .readable)
            guard (try? set.wait(milliseconds: 0)) == true,
                let count = try? Self.read(input, &buffer), count > 0
            else { return }
        }
    }

    private static func read(_ number: Int32, _ buffer: inout [UInt8]) throws(Errno) -> Int {
        let descriptor = try Descriptor.duplicate(of: number)
        return try descriptor.read(into: &buffer)
    }

    private func read() {
        var buffer = [UInt8](repeating: 0, count: 1024)
        let count = (try? Self.read(input, &buffer)) ?? 0
        if count == 0 { return end() }
        if !isListening { return }
        line += buffer[..<count]
        while isListening, let end = line.firstIndex(of: 0x0A) {
            let answer = Array(line[..<end])
            line.removeSubrange(...end)
            take(answer)
        }
        if !isListening || line.count > 4096 { line = [] }
    }

    private func end() {
        loop.unwatch(input)
        let all = (present.map { [$0] } ?? []) + queue
        present = nil
        queue = []
        if let timer { loop.cancel(timer) }
        for question in all { question.reply(nil) }
        onEnd()
    }

    private func take(_ answer: [UInt8]) {
        guard let question = present else { return }
        let word = String(decoding: answer, as: UTF8.self).trimmingBlanks
        if answer.contains(0x1B) || ["deny", "no", "n"].contains(word) {
            write("Denied.\n\n")
            return finish(question, nil)
        }
        let target =
            word.isEmpty ? question.request.preselected : question.request.target(for: word)
        if let target {
            write("Allowed to \(target).\n\n")
            return finish(question, target)
        }
        write("That is none of the targets, or more than one; 'deny' to refuse: ")
    }

    private func finish(_ question: Question, _ target: String?) {
        present = nil
        question.reply(target)
        if present == nil { next() }
    }
}

extension String {
    /// Without blanks at its ends.
    fileprivate var trimmingBlanks: String {
        let bytes = utf8.drop { $0 == 0x20 || $0 == 0x09 || $0 == 0x0D }
        let count = bytes.reversed().prefix { $0 == 0x20 || $0 == 0x09 || $0 == 0x0D }.count
        return String(decoding: bytes.dropLast(count), as: UTF8.self)
    }
}
