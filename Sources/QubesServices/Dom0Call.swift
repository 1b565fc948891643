import Glibc
import LinuxSystem
import SystemPackage

/// A call from dom0 to a service of a qube, through `qrexec-client`: what is sent goes by its standard
/// input, the answer comes from its standard output.
final class Dom0Call {
    /// Whether this is dom0: there the qube manager listens.
    static var isHere: Bool {
        ["/var/run/qubesd.sock", "/run/qubesd.sock"].contains {
            (try? FileStatus.kind(of: $0)) == .socket
        }
    }

    /// The descriptors of the call.
    let carrier: any StreamCarrier
    private let answers: Descriptor
    private var input: SharedDescriptor?
    private var client: ChildProcess?

    init(target: String, service: String) throws(FileProblem) {
        let program = "qrexec-client"
        guard let path = Programs.installed(program) ?? Programs.find(program) else {
            throw FileProblem(Array(program.utf8), "not found in /usr/lib/qubes or in PATH")
        }
        do throws(Errno) {
            let toClient = try Descriptor.pipe()
            let fromClient = try Descriptor.pipe()
            var request = SpawnRequest(
                path: path,
                arguments: [program, "-d", target, "DEFAULT:QUBESRPC \(service) dom0"],
                environment: CurrentProcess.environment)
            request.descriptors = [toClient.first.number, fromClient.second.number, 2]
            request.diesWithParent = true
            client = try ChildProcess.spawn(request)
            let input = SharedDescriptor(try toClient.second.duplicate())
            self.input = input
            answers = try fromClient.first.duplicate()
            carrier = DescriptorCarrier(output: input.descriptor.number, answers: answers.number)
        } catch {
            throw FileProblem(Array(path.utf8), "cannot be started: \(error.message)")
        }
    }

    /// Ends the stream and waits for the end of the call.
    ///
    /// - Returns: its exit status.
    func finish() -> Int32 {
        input = nil
        guard let client = client.take() else { return 1 }
        return (try? client.reap()) ?? 1
    }
}
