import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// Asks the policy service about a call, and a program where one was named and the service cannot
/// be reached or gives no valid answer. Nobody else is ever asked: without an answer it is denied.
final class PolicyAsker {
    /// Why there is no answer.
    struct Unanswered: Error { let reason: String }

    /// Answers may need a person.
    private static let time = seconds(1800)

    private let loop: EventLoop
    private let socket: String
    private let program: String?
    private let log: Log

    /// - Parameter program: asked only when the service does not answer.
    init(loop: EventLoop, socket: String, program: String?, log: Log) {
        self.loop = loop
        self.socket = socket
        self.program = program
        self.log = log
    }

    func ask(
        _ question: PolicyQuestion,
        _ completion: @escaping (Result<PolicyAnswer, Unanswered>) -> Void
    ) {
        Exchange.ask(
            loop: loop, path: socket, request: question.bytes, shutsDown: false,
            limit: Limits.policyAnswer + 1, timeout: Self.time
        ) { [self] result in
            let answer = Self.check(result.mapError { "policy service: \($0)" })
            guard case .failure(let unanswered) = answer, let program else {
                return completion(answer)
            }
            log.warning("\(unanswered.reason): asking \(program)")
            PolicyProgram.ask(
                loop: loop, program, question, limit: Limits.policyAnswer + 1, timeout: Self.time
            ) { completion(Self.check($0.mapError { "\(program): \($0)" })) }
        }
    }

    private static func check(
        _ result: Result<[UInt8], Unanswered>
    ) -> Result<PolicyAnswer, Unanswered> {
        switch result {
        case .failure(let unanswered): return .failure(unanswered)
        case .success([]):
            return .failure(Unanswered(reason: "policy: no answer; see its log"))
        case .success(let bytes):
            do throws(PolicyAnswer.Malformed) {
                return .success(try PolicyAnswer(bytes: bytes))
            } catch {
                return .failure(Unanswered(reason: "policy: \(error)"))
            }
        }
    }
}

extension Result {
    /// The failure as the reason for having no answer.
    fileprivate func mapError(
        _ text: (Failure) -> String
    ) -> Result<Success, PolicyAsker.Unanswered> {
        mapError { (failure: Failure) in PolicyAsker.Unanswered(reason: text(failure)) }
    }
}

/// A program that decides a call: the question as its arguments, its standard output the answer.
final class PolicyProgram {
    enum Failure: Error, CustomStringConvertible {
        case notStarted(Errno)
        case tooLong(limit: Int)
        case timedOut
        case status(Int32)

        var description: String {
            switch self {
            case .notStarted(let error): "it cannot be started: \(error)"
            case .tooLong(let limit): "its answer is longer than \(limit) bytes"
            case .timedOut: "no answer in time"
            case .status(let status): "it ended with status \(status)"
            }
        }
    }

    private let loop: EventLoop
    private let limit: Int
    private var child: ChildProcess?
    private var output: Descriptor?
    private var answer: [UInt8] = []
    private var chunk = [UInt8](repeating: 0, count: 4096)
    private var timer: EventLoop.Timer?
    private var failure: Failure?
    private var completion: ((Result<[UInt8], Failure>) -> Void)?

    private init(
        loop: EventLoop, limit: Int, completion: @escaping (Result<[UInt8], Failure>) -> Void
    ) {
        self.loop = loop
        self.limit = limit
        self.completion = completion
    }

    /// The arguments behind the program's name: `[--requested-source=R] -- SOURCE TARGET SERVICE`.
    static func arguments(_ question: PolicyQuestion) -> [String] {
        let claimed = question.claimedSource ?? ""
        return (claimed.isEmpty ? [] : ["--requested-source=\(claimed)"])
            + ["--", question.source, question.target, question.service]
    }

    /// Starts the program; the completion is called once, later.
    static func ask(
        loop: EventLoop, _ path: String, _ question: PolicyQuestion, limit: Int, timeout: UInt64,
        completion: @escaping (Result<[UInt8], Failure>) -> Void
    ) {
        let program = PolicyProgram(loop: loop, limit: limit, completion: completion)
        do throws(Errno) {
            try program.start(path, Self.arguments(question))
            program.timer = loop.schedule(after: timeout) { program.giveUp(.timedOut) }
        } catch {
            loop.defer { completion(.failure(.notStarted(error))) }
        }
    }

    private func start(_ path: String, _ arguments: [String]) throws(Errno) {
        let null = try Descriptor.open("/dev/null", 0)
        let pipe = try Descriptor.pipe()
        var request = SpawnRequest(
            path: path, arguments: [path] + arguments, environment: CurrentProcess.environment)
        request.descriptors = [null.number, pipe.second.number, 2]
        request.newSession = true
        let started = try ChildProcess.spawn(request)
        let number = started.pidfd.number
        child = consume started
        let input = try pipe.first.duplicate()
        try input.setNonblocking(true)
        let inputNumber = input.number
        output = consume input
        try loop.watch(inputNumber, .readable) { _ in self.read() }
        try loop.watch(number, .readable) { _ in self.exited() }
    }

    private func read() {
        while output != nil {
            do throws(Errno) {
                let count = try output!.read(into: &chunk)
                if count == 0 { return closeOutput() }
                answer += chunk[..<count]
                if answer.count > limit { return giveUp(.tooLong(limit: limit)) }
            } catch .resourceTemporarilyUnavailable {
                return
            } catch {
                return closeOutput()
            }
        }
    }

    private func closeOutput() {
        if let taken = output.take() { loop.unwatch(taken.number) }
    }

    private func giveUp(_ reason: Failure) {
        failure = reason
        closeOutput()
        child?.signalGroup(9)
    }

    private func exited() {
        guard let ended = child.take() else { return }
        loop.unwatch(ended.pidfd.number)
        let status = (try? ended.reap()) ?? CallStatus.problem
        // All that it wrote is there now; a descendant may hold the pipe open for longer.
        read()
        closeOutput()
        if let timer { loop.cancel(timer) }
        let handler = completion
        completion = nil
        if let failure {
            handler?(.failure(failure))
        } else if status != 0 {
            handler?(.failure(.status(status)))
        } else {
            handler?(.success(answer))
        }
    }
}
