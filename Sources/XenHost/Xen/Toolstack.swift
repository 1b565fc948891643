import QrexecRuntime

/// What `xl` is asked for.
final class Toolstack {
    /// Seconds for the commands that should be over at once.
    private static let patience: UInt64 = 30

    private let runner: CommandRunner
    private let program: String

    init(runner: CommandRunner, program: String) {
        self.runner = runner
        self.program = program
    }

    /// Done, or why not.
    typealias Completion = (String?) -> Void

    private func run(
        _ arguments: [String], patience: UInt64 = Toolstack.patience,
        _ completion: @escaping Completion
    ) -> CommandRunner.Command {
        runner.run([program] + arguments, patience: patience) { outcome in
            completion(outcome.succeeded ? nil : outcome.problem("xl \(arguments[0])"))
        }
    }

    /// - Parameters:
    ///   - additions: lines that come behind those of the file, and count before them.
    ///   - patience: seconds.
    func create(
        _ configuration: String, additions: [String], patience: UInt64,
        completion: @escaping Completion
    ) -> CommandRunner.Command {
        run(["create", "-q", configuration] + additions, patience: patience, completion)
    }

    /// Asks a domain to shut down, which takes its time.
    func shutdown(_ domain: UInt32, completion: @escaping Completion) {
        // -F: by ACPI where the kernel knows nothing of Xen.
        _ = run(["shutdown", "-F", String(domain)], completion)
    }

    func destroy(_ domain: UInt32, completion: @escaping Completion) {
        _ = run(["destroy", String(domain)], completion)
    }

    func pause(_ domain: UInt32, completion: @escaping Completion) {
        _ = run(["pause", String(domain)], completion)
    }

    func unpause(_ domain: UInt32, completion: @escaping Completion) {
        _ = run(["unpause", String(domain)], completion)
    }

    /// - Parameter completion: told why there is no list, else.
    func list(completion: @escaping (Result<DomainList, HostProblem>) -> Void) {
        runner.run([program, "list", "-v"], patience: Self.patience) { outcome in
            guard outcome.succeeded else {
                return completion(.failure(HostProblem(outcome.problem("xl list"))))
            }
            do throws(DomainList.Invalid) {
                completion(.success(try DomainList(outcome.output)))
            } catch {
                let line = LogText.line(error.line)
                completion(.failure(HostProblem("xl list printed no list but '\(line)'")))
            }
        }
    }
}

/// Why something could not be done, in words.
struct HostProblem: Error, Equatable {
    let reason: String
    init(_ reason: String) { self.reason = reason }
}
