import Testing

@testable import QrexecProtocol

@Suite("qubesd's messages")
struct QubesdMessageTests {
    @Test("A request is cut into its parts")
    func request() throws {
        let bytes = Array("admin.vm.feature.Get+a+b dom0 name work".utf8) + [0] + [1, 0, 2]
        let request = try QubesdRequest(bytes)
        #expect(request.method == "admin.vm.feature.Get")
        #expect(request.argument == "a+b")
        #expect(request.source == "dom0")
        #expect(request.destination == "work")
        #expect(request.payload == [1, 0, 2])
    }

    @Test("What a client encodes is what the server reads")
    func roundTrip() throws {
        let bytes = QubesdRequest.encode("admin.vm.Start", destination: "uuid:x", payload: [7])
        let request = try QubesdRequest(bytes)
        #expect(request.method == "admin.vm.Start")
        #expect(request.argument == "")
        #expect(request.destination == "uuid:x")
        #expect(request.payload == [7])
    }

    static let hostile: [[UInt8]] = [
        [], [0], Array("admin.vm.Start dom0 name work".utf8),
        Array("a b c d e".utf8) + [0], Array("a b name ".utf8) + [0],
        Array("a  name work".utf8) + [0], Array("+x dom0 name work".utf8) + [0],
        Array("a dom0 thing work".utf8) + [0], Array("a\nb dom0 name work".utf8) + [0],
        Array("ä dom0 name work".utf8) + [0], [0xFF, 0x20, 0x20, 0x20, 0],
        [UInt8](repeating: 0x61, count: 70_000),
        Array("a dom0 name work".utf8) + [UInt8](repeating: 0, count: 70_000),
    ]

    @Test("A request that is none is refused with a reason", arguments: hostile)
    func refused(_ bytes: [UInt8]) {
        #expect(throws: QubesdRequest.Invalid.self) { try QubesdRequest(bytes) }
    }

    @Test("An answer survives the way to the client")
    func response() throws {
        let ok = QubesdResponse.ok([1, 2, 0, 3])
        #expect(try QubesdResponse(ok.bytes) == ok)
        let error = QubesdResponse.exception(.failed("100 % of %s"))
        #expect(try QubesdResponse(error.bytes) == error)
    }

    @Test("Arguments of an exception are put into its message")
    func exceptionArguments() throws {
        let bytes = [UInt8]([0x32, 0]) + Array("Err\0trace\0No %s in %d\0work\03\0".utf8)
        #expect(
            try QubesdResponse(bytes)
                == .exception(QubesdError(type: "Err", message: "No work in 3")))
    }

    @Test(
        "An answer that is none is an error",
        arguments: [[], [0x30], [0x31, 0], [0x32, 0], [0x32, 0, 0x41, 0], [0x39, 0, 1]] as [[UInt8]]
    )
    func badResponse(_ bytes: [UInt8]) {
        #expect(throws: QubesdResponse.Invalid.self) { try QubesdResponse(bytes) }
    }

    @Test("An event is subject, name and pairs, each ended by NUL")
    func event() {
        let event = QubeEvent(subject: "work", name: "domain-start", details: [("a", "b")])
        #expect(QubesdResponse.encode(event) == Array("work\0domain-start\0a\0b\0\0".utf8))
    }
}
