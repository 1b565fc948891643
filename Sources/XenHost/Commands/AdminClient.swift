import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// The manager, as `qubes-xl` asks it: the answers that a person can do nothing about become problems
/// that say what to do.
struct AdminClient {
    private let client: QubesdClient

    init(path: String) {
        // Copying the disks of a disposable takes as long as it takes.
        client = QubesdClient(path: path, timeout: nil)
    }

    func call(
        _ method: String, argument: String = "", destination: String
    ) throws(HostProblem) -> Result<String, QubesdError> {
        do throws(QubesdClient.Failure) {
            return .success(try client.call(method, argument: argument, on: destination))
        } catch .refused(let error) {
            return .failure(error)
        } catch {
            throw problem(error)
        }
    }

    /// Follows events until the manager ends.
    func follow(_ handle: ([String]) -> Void) throws(HostProblem) {
        do throws(QubesdClient.Failure) {
            try client.follow(handle)
        } catch {
            throw problem(error)
        }
    }

    private func problem(_ failure: QubesdClient.Failure) -> HostProblem {
        let path = client.path
        return switch failure {
        case .refused(let error): HostProblem(error.message)
        case .unreachable(.permissionDenied):
            HostProblem(
                "\(path) is for root and the group qubes: use sudo, or join the group")
        case .unreachable:
            HostProblem(
                "no manager listens at \(path); start it with: systemctl start qubes-xl-manager")
        case .noAnswer(let reason):
            HostProblem("the manager does not answer (\(reason)); see its log")
        }
    }
}
