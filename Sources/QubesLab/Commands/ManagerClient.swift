import Glibc
import LinuxSystem
import SystemPackage

/// A command's connection to the manager of a running lab.
struct ManagerClient: ~Copyable {
    let socket: Descriptor

    /// - Throws: with the way to start a lab, when none runs.
    init(_ state: StateDirectory) throws(LabError) {
        guard try state.check(), PathStatus.exists(state.socket) else {
            throw LabError("no lab runs at \(state.path); start one with: qubes-lab up")
        }
        do throws(Errno) {
            socket = try UnixSocket.connect(state.socket, .sequencedPacket)
        } catch .connectionRefused {
            throw LabError(
                "the lab at \(state.path) has crashed; remove it with: qubes-lab down")
        } catch {
            throw LabError("cannot reach the lab at \(state.path): \(error)")
        }
    }

    func send(_ request: ControlRequest) throws(LabError) {
        do throws(Errno) {
            _ = try UnixSocket.send(socket, Packet.encode(request), descriptors: [], wait: true)
        } catch {
            throw LabError("cannot ask the lab's manager: \(error)")
        }
    }

    /// The next answer; nil when the manager has closed.
    ///
    /// - Parameter milliseconds: -1 waits for ever.
    func receive(milliseconds: Int32 = -1) throws(LabError) -> ControlReply? {
        do throws(Errno) {
            guard try poll(socket.number, .readable, milliseconds: milliseconds) != [] else {
                throw Errno.timedOut
            }
            var none = DescriptorList()
            let bytes = try UnixSocket.receive(
                socket, limit: ControlReply.maximumLength, maximumDescriptors: 0,
                descriptors: &none)
            return bytes.isEmpty ? nil : Packet.decode(ControlReply.self, bytes)
        } catch {
            throw LabError(
                "no answer from the lab's manager: \(error); if it has crashed, remove the lab with: "
                    + "qubes-lab down")
        }
    }

    /// Asks, and waits for the end.
    func ask(_ request: ControlRequest) throws(LabError) -> ControlReply {
        try send(request)
        while let reply = try receive() {
            if let error = reply.error { throw LabError(error) }
            if reply.isDone { return reply }
        }
        throw LabError("the lab's manager ended; see 'qubes-lab log'")
    }
}
