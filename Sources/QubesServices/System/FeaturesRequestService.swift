import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// dom0's service `qubes.FeaturesRequest`: a qube says what it can do, and qubesd remembers it as the
/// qube's features (specification 16.2). A qube with a QubesDB sends nothing: qubesd then looks there.
/// Exit status: 0, or 1 when the request is none or qubesd does not take it.
public enum FeaturesRequestService {
    /// Nanoseconds for all of a request to come.
    private static let patience: UInt64 = 30_000_000_000

    /// - Parameter arguments: all of argv; the service takes none.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.FeaturesRequest")
        let source = CurrentProcess.variable("QREXEC_REMOTE_DOMAIN") ?? ""
        guard Names.isDomainName(source) else {
            complain(program, "QREXEC_REMOTE_DOMAIN does not name a qube")
            return 1
        }
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try BoundedRead.all(
                of: 0, limit: FeaturesRequest.maximumSize,
                deadline: CurrentProcess.now + patience)
        } catch {
            complain(program, "\(source): \(error.message)")
            return 1
        }
        do throws(FeaturesRequest.Invalid) {
            return store(try FeaturesRequest(bytes), of: source, program)
        } catch {
            complain(program, "\(source): \(error.reason); nothing is changed")
            return 1
        }
    }

    private static func store(
        _ request: FeaturesRequest, of source: String, _ program: String
    ) -> Int32 {
        let qubesd = QubesdClient()
        do throws(QubesdClient.Failure) {
            if request.features.isEmpty {
                _ = try qubesd.call("qubes.FeaturesRequest", from: source, on: "dom0")
                return 0
            }
            for (key, value) in request.features {
                _ = try qubesd.call(
                    "admin.vm.feature.Set", argument: key, on: source, payload: Array(value.utf8))
            }
            return 0
        } catch {
            complain(program, "\(source): \(error.text)")
            return 1
        }
    }
}
