import LinuxSystem
import QrexecRuntime

/// A service says with SIGUSR1 that its output comes over its input socket from now on (5.4). All
/// calls of a process share its number, so the sender tells which call is meant.
enum SingleSocketSwitch {
    static func apply(_ arrival: CurrentProcess.Arrival, to sessions: [ServiceSession]) {
        let session = CurrentProcess.session(of: arrival.sender)
        for candidate in sessions {
            // Others may have sent the signal too: equal ones that arrive together are one.
            candidate.useInputForOutput(
                certain: session.map(candidate.hasProcesses(inSession:)) ?? false)
        }
    }
}
