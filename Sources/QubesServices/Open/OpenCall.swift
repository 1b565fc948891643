import Glibc
import LinuxSystem
import QrexecClient
import QrexecProtocol
import SystemPackage

/// A call of `qubes.OpenInVM` or `qubes.OpenURL` by this process itself.
struct OpenCall {
    var target: String
    var service: String

    /// Bytes that are taken back at most: a hostile service must not fill the disk.
    static func limit(_ size: UInt64) -> UInt64 { max(size &* 4, 2 << 30) }

    /// Sends a text; what the service says is dropped.
    ///
    /// - Returns: the exit status of the call.
    func send(_ text: String) throws(FileProblem) -> Int32 {
        try call { call throws(CarrierFailure) in
            try call.write(Array(text.utf8).span)
        } sink: {
            _ throws(Errno) in
        }
    }

    /// Sends a file.
    ///
    /// - Parameter into: where what comes back is written; nil hears nothing.
    /// - Returns: the exit status of the call.
    func exchange(
        _ path: String, isViewOnly: Bool, into: Int32?
    ) throws(FileProblem) -> Int32 {
        let shown = Array(path.utf8)
        let place = try ArgumentPlace(path)
        let file: SharedDescriptor
        let size: UInt64
        do throws(Errno) {
            file = SharedDescriptor(
                try Descriptor.open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY))
            size = try file.descriptor.status().size
        } catch {
            throw FileProblem(shown, error)
        }
        let request = OpenRequest(name: place.name, isViewOnly: isViewOnly)
        var taken: UInt64 = 0
        return try call { call throws(CarrierFailure) in
            try call.write(request.encoded.span)
            var buffer = [UInt8](repeating: 0, count: 128 * 1024)
            while true {
                let got: Int
                do throws(Errno) { got = try file.descriptor.read(into: &buffer) } catch {
                    throw .failed("\(displayable(shown)): \(error.message)")
                }
                if got == 0 { return }
                try call.write(buffer.span.extracting(..<got))
            }
        } sink: { bytes throws(Errno) in
            guard let into else { return }
            taken += UInt64(bytes.count)
            if taken > Self.limit(size) { throw .fileTooLarge }
            try Descriptor.writeAll(into, bytes.span)
        }
    }

    private func call(
        _ send: (RingCall) throws(CarrierFailure) -> Void,
        sink: @escaping ([UInt8]) throws(Errno) -> Void
    ) throws(FileProblem) -> Int32 {
        let name = Array(service.utf8)
        do throws(CarrierFailure) {
            guard let call = try RingCall.begin(CallRequest(target: target, service: service))
            else { return CallStatus.refused }
            call.sink = sink
            do throws(CarrierFailure) { try send(call) } catch .ended {
                // A service that ends without reading everything has a status of its own.
            }
            let status = call.finish(deadline: nil)
            if let failure = call.sinkFailure {
                let what =
                    failure == .fileTooLarge
                    ? "far more came back than was sent" : "what came back: \(failure.message)"
                throw .failed("\(what); your file stays as it is")
            }
            return status
        } catch {
            if case .failed(let reason) = error { throw FileProblem(name, reason) }
            throw FileProblem(name, "the connection ended")
        }
    }
}
