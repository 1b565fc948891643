import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

@testable import QrexecRuntime

typealias Message = PumpScene.Message

@Suite struct CallersData {
    private func caller(version: UInt32? = 4, ring: Int = 65536) throws -> PumpScene {
        let scene = try PumpScene(.caller, version: version, ring: ring)
        try scene.attachMainSink()
        try scene.attachErrorSink()
        try scene.attachSource(.dataStdin)
        try scene.skipHello()
        return scene
    }

    @Test func outputErrorAndStatusArriveAndInputIsEnded() throws {
        let scene = try caller()
        try scene.send(.dataStdout, bytes("out"))
        try scene.send(.dataStderr, bytes("err"))
        try scene.send(.dataStdout, bytes("put"))
        try scene.send(.dataStdout, [])
        try scene.send(.dataStderr, [])
        try scene.send(.dataExitCode, [3, 0, 0, 0])
        #expect(try scene.next() == Message(type: .dataStdin, body: []))
        try scene.runUntilEnd()
        #expect(scene.received == bytes("output"))
        #expect(scene.receivedError == bytes("err"))
        #expect(scene.pump.exitCode == 3)
        #expect(scene.end == "finished")
        #expect(try scene.peerSeesClose())
    }

    @Test func inputGoesOutAndItsEndIsAnEmptyMessage() throws {
        let scene = try caller()
        try scene.input!.writeAll(bytes("in"))
        #expect(try scene.next() == Message(type: .dataStdin, body: bytes("in")))
        UnixSocket.shutdown(scene.inputNumber, writing: true)
        #expect(try scene.next() == Message(type: .dataStdin, body: []))
        #expect(scene.sourceEnds == [.dataStdin])
        // A half-closed call goes on.
        try scene.send(.dataStdout, bytes("later"))
        try scene.runUntil { scene.received == bytes("later") }
        #expect(scene.end == nil)
    }

    @Test func aPrefixGoesOutBeforeTheInput() throws {
        let scene = try PumpScene(.caller)
        try scene.attachSource(.dataStdin)
        scene.pump.prependToSource(bytes("prefix"))
        try scene.input!.writeAll(bytes("in"))
        try scene.skipHello()
        #expect(try scene.next().body == bytes("prefix"))
        #expect(try scene.next().body == bytes("in"))
    }

    @Test(
        arguments: [
            ([], 255), ([1], 255), ([0, 0, 0], 255), ([7, 0, 0, 0], 7), ([7, 0, 0, 0, 9, 9], 7),
            ([0, 1, 0, 0], 256), ([0xFF, 0xFF, 0xFF, 0xFF], 255), ([0, 0, 0, 0x80], 255),
        ] as [([UInt8], Int32)])
    func aShortOrNegativeStatusIs255AndOfALongOneFourBytesCount(
        body: [UInt8], status: Int32
    ) throws {
        let scene = try caller()
        try scene.send(.dataStdout, [])
        try scene.send(.dataExitCode, body)
        try scene.runUntilEnd()
        #expect(scene.pump.exitCode == status)
        #expect(scene.end == "finished")
    }

    @Test func outputBehindTheStatusStillArrives() throws {
        let scene = try caller()
        try scene.send(.dataExitCode, [0, 0, 0, 0])
        try scene.send(.dataStdout, bytes("late"))
        try scene.runUntil { scene.received == bytes("late") }
        #expect(scene.end == nil)
        try scene.send(.dataStdout, [])
        try scene.runUntilEnd()
        #expect(scene.end == "finished")
    }

    @Test func aStatusWithoutAnEndOfOutputWaitsForTheClose() throws {
        let scene = try caller()
        try scene.send(.dataExitCode, [5, 0, 0, 0])
        try scene.runAMoment()
        #expect(scene.end == nil)
        scene.closePeer()
        try scene.runUntilEnd()
        #expect(scene.pump.exitCode == 5)
        #expect(scene.end == "finished")
    }

    @Test(arguments: [true, false])
    func aServiceThatLeavesEarlyIsAnEarlyEndAfterItsOutput(inOrder: Bool) throws {
        let scene = try caller()
        try scene.send(.dataStdout, pattern(count: 50000))
        if inOrder { scene.closePeer() } else { scene.killPeer() }
        try scene.runUntilEnd()
        #expect(scene.received == pattern(count: 50000))
        #expect(scene.pump.exitCode == nil)
        #expect(scene.end == "closedEarly")
    }

    @Test(arguments: [1, 7, 8, 9, 20]) func aCutFrameIsAnEarlyEnd(count: Int) throws {
        let scene = try caller()
        try scene.send(raw: Array(encoded(.dataStdout, pattern(count: 100)).prefix(count)))
        scene.closePeer()
        try scene.runUntilEnd()
        #expect(scene.end == "closedEarly")
        #expect(scene.received == pattern(count: max(0, count - 8)))
    }

    @Test func aServiceThatLeavesBeforeItsHelloIsAnEarlyEnd() throws {
        let scene = try PumpScene(.caller, version: nil)
        scene.closePeer()
        try scene.runUntilEnd()
        #expect(scene.end == "closedEarly")
    }

    @Test func swappedTypesAreData() throws {
        let scene = try caller()
        try scene.send(.dataStdin, bytes("x"))
        try scene.send(.dataStdin, [])
        try scene.send(.dataExitCode, [0, 0, 0, 0])
        try scene.runUntilEnd()
        #expect(scene.received == bytes("x"))
        #expect(scene.end == "finished")
    }

    @Test func dataAfterTheEndOfAStreamIsDroppedAndASecondEndIsFine() throws {
        let scene = try caller()
        try scene.send(.dataStdout, bytes("a"))
        try scene.send(.dataStdout, [])
        try scene.send(.dataStdout, pattern(count: 60000))
        try scene.send(.dataStdout, [])
        try scene.send(.dataStderr, bytes("e"))
        try scene.send(.dataExitCode, [0, 0, 0, 0])
        try scene.runUntilEnd()
        #expect(scene.received == bytes("a"))
        #expect(scene.receivedError == bytes("e"))
        #expect(scene.end == "finished")
    }

    @Test func aReaderThatIsGoneDoesNotEndTheCall() throws {
        let scene = try caller()
        _ = scene.output.take()
        for _ in 0..<4 { try scene.send(.dataStdout, pattern(count: 60000)) }
        try scene.runUntil { scene.mainSinkClosed }
        try scene.send(.dataStderr, bytes("still here"))
        try scene.runUntil { scene.receivedError == bytes("still here") }
        try scene.send(.dataExitCode, [1, 0, 0, 0])
        try scene.runUntilEnd()
        #expect(scene.end == "finished")
    }

    @Test func aTerminalSeesOnlyWhatItCanBeTrustedWith() throws {
        let scene = try PumpScene(.caller)
        try scene.attachMainSink(filter: true, pipe: true)
        try scene.send(.dataStdout, bytes("a\u{1B}[0m\tb\r\n\u{8}\u{7}\u{7F}ä\0"))
        try scene.send(.dataStdout, pattern(count: 60000))
        try scene.send(.dataStdout, [])
        try scene.send(.dataExitCode, [0, 0, 0, 0])
        scene.pump.sendEnd(of: .dataStdin)
        try scene.runUntilEnd()
        #expect(scene.received.prefix(15) == bytes("a_[0m\tb\r\n\u{8}\u{7}____")[...])
        #expect(scene.received.count == 60015)
        #expect(scene.end == "finished")
    }

    /// The descriptor of a terminal that hung up must not stay watched: its number comes again.
    @Test func aTerminalThatIsGoneDoesNotEndTheCall() throws {
        let scene = try PumpScene(.caller)
        try scene.attachMainSink(filter: true, pipe: true)
        _ = scene.output.take()
        try scene.send(.dataStdout, bytes("text"))
        try scene.runUntil { scene.mainSinkClosed }
        try scene.attachSource(.dataStdin)
        try scene.attachErrorSink()
        try scene.send(.dataStderr, bytes("e"))
        try scene.runUntil { scene.receivedError == bytes("e") }
        #expect(scene.end == nil)
    }
}

@Suite struct ServicesData {
    private func service(version: UInt32? = 4, ring: Int = 65536) throws -> PumpScene {
        let scene = try PumpScene(.service, version: version, ring: ring)
        try scene.attachMainSink()
        try scene.attachSource(.dataStdout)
        try scene.skipHello()
        return scene
    }

    @Test func theStatusIsTheLastMessageBeforeTheClose() throws {
        let scene = try service()
        scene.pump.sendEnd(of: .dataStderr)
        try scene.input!.writeAll(bytes("result"))
        scene.pump.finish(exitCode: 4)
        var output: [UInt8] = []
        var others: [Message] = []
        UnixSocket.shutdown(scene.inputNumber, writing: true)
        while others.last?.type != .dataExitCode {
            let message = try scene.next()
            if message.type == .dataStdout, !message.body.isEmpty {
                output += message.body
            } else {
                others.append(message)
            }
        }
        #expect(output == bytes("result"))
        #expect(others.count == 3)
        #expect(others.contains(Message(type: .dataStderr, body: [])))
        #expect(others.contains(Message(type: .dataStdout, body: [])))
        #expect(others.last?.body == [4, 0, 0, 0])
        #expect(scene.end == "finished")
        #expect(try scene.peerSeesClose())
    }

    @Test func inputArrivesAndItsEndClosesTheSink() throws {
        let scene = try service()
        try scene.send(.dataStdin, bytes("in"))
        try scene.send(.dataStdout, bytes("put"))
        try scene.send(.dataStdin, [])
        try scene.runUntil { scene.mainSinkClosed }
        scene.collect()
        #expect(scene.received == bytes("input"))
        // The other direction stays.
        try scene.input!.writeAll(bytes("x"))
        #expect(try scene.next().body == bytes("x"))
        #expect(scene.end == nil)
    }

    /// QSB-087.
    @Test func errorAndStatusOfACallerAreIgnored() throws {
        let scene = try service()
        try scene.send(.dataStderr, pattern(count: 60000))
        try scene.send(.dataStderr, [])
        try scene.send(.dataExitCode, [0, 0, 0, 0])
        try scene.send(.dataExitCode, [])
        try scene.send(.dataExitCode, pattern(count: 60000))
        try scene.send(.dataStdin, bytes("x"))
        try scene.runUntil { scene.received == bytes("x") }
        #expect(scene.pump.exitCode == nil)
        #expect(scene.end == nil)
    }

    @Test(arguments: [true, false]) func aCallerThatLeavesEndsTheCallAtOnce(inOrder: Bool) throws {
        let scene = try service()
        if inOrder { scene.closePeer() } else { scene.killPeer() }
        try scene.runUntilEnd()
        #expect(scene.end == "closedEarly")
        #expect(scene.sourceEnds.isEmpty)
    }

    @Test func aServiceThatTakesNoInputStopsNobody() throws {
        let scene = try service()
        scene.pump.closeMainSink()
        for _ in 0..<4 { try scene.send(.dataStdin, pattern(count: 60000)) }
        try scene.input!.writeAll(bytes("x"))
        #expect(try scene.next().body == bytes("x"))
        #expect(scene.received.isEmpty)
    }

    @Test func aServiceThatReadsNothingStopsItsCallerAndNotItself() throws {
        let scene = try service()
        let input = (0..<200).flatMap { _ in encoded(.dataStdin, pattern(count: 10000)) }
        var done = 0
        for _ in 0..<50 {
            done += try scene.sendWhatFits(Array(input[done...]))
            try run(scene.loop, for: milliseconds(1))
        }
        #expect(done < input.count)
        try scene.input!.writeAll(bytes("x"))
        #expect(try scene.next().body == bytes("x"))
        // As soon as it reads again, everything comes.
        try scene.send(raw: Array(input[done...]))
        try scene.runUntil { scene.received.count == 200 * 10000 }
        #expect(scene.received.prefix(10000) == pattern(count: 10000)[...])
    }

    @Test func aCallerThatReadsNothingStopsTheServicesOutput() throws {
        let scene = try service()
        let output = pattern(count: 1_000_000)
        var done = 0
        for _ in 0..<100 {
            if let count = try? UnixSocket.send(
                scene.inputNumber, Array(output[done...].prefix(50000)).span)
            {
                done += count
            }
            try run(scene.loop, for: milliseconds(1))
        }
        #expect(done < output.count)
        var got: [UInt8] = []
        while got.count < done { got += try scene.next().body }
        #expect(got == output.prefix(done).map { $0 })
    }
}

@Suite struct DataProtocol {
    private static let roles: [DataPump.Role] = [.caller, .service]

    @Test(arguments: roles, [0, 1] as [UInt32])
    func versionsBelowTwoEndTheChannel(role: DataPump.Role, version: UInt32) throws {
        let scene = try PumpScene(role, version: version)
        try scene.runUntilEnd()
        #expect(scene.end?.contains("unsupportedVersion") == true)
    }

    @Test(arguments: roles) func dataBeforeHelloEndsTheChannel(role: DataPump.Role) throws {
        let scene = try PumpScene(role, version: nil)
        try scene.send(.dataStdin, bytes("x"))
        try scene.runUntilEnd()
        #expect(scene.end?.contains("unexpectedType") == true)
    }

    @Test(arguments: roles, [0, 3, 5, 65536, .max] as [UInt32])
    func aHelloOfAnotherLengthEndsTheChannel(role: DataPump.Role, length: UInt32) throws {
        let scene = try PumpScene(role, version: nil)
        try scene.send(raw: scene.little(MessageType.hello.rawValue) + scene.little(length))
        try scene.runUntilEnd()
        #expect(scene.end?.contains("badLength") == true)
    }

    @Test(arguments: roles, [0, 0x18F, 0x194, 0x200, 0x213, 0x300, .max] as [UInt32])
    func messagesThatAreNoDataEndTheChannel(role: DataPump.Role, type: UInt32) throws {
        let scene = try PumpScene(role)
        try scene.attachMainSink()
        try scene.send(raw: scene.little(type) + scene.little(0))
        try scene.runUntilEnd()
        #expect(scene.end?.hasPrefix("protocolError") == true)
        #expect(try scene.peerSeesClose())
    }

    @Test(arguments: roles, [(2, 4096), (3, 65536), (4, 65536), (9, 65536)] as [(UInt32, UInt32)])
    func chunksHaveTheVersionsLimit(
        role: DataPump.Role, limit: (version: UInt32, chunk: UInt32)
    ) throws {
        let scene = try PumpScene(role, version: limit.version)
        try scene.attachMainSink()
        let longest = pattern(count: Int(limit.chunk))
        try scene.send(.dataStdin, longest)
        try scene.runUntil { scene.received == longest }
        #expect(scene.end == nil)
        try scene.send(
            raw: scene.little(MessageType.dataStdin.rawValue) + scene.little(limit.chunk + 1))
        try scene.runUntilEnd()
        #expect(scene.end?.contains("tooLong") == true)
    }

    @Test(arguments: [(2, 4096), (3, 65528), (4, 65528)] as [(UInt32, Int)])
    func weSendNoLongerChunksThanThePeerTakes(version: UInt32, chunk: Int) throws {
        let scene = try PumpScene(.service, version: version)
        try scene.attachSource(.dataStdout)
        try scene.skipHello()
        let output = pattern(count: 100_000)
        try scene.input!.writeAll(output)
        var got: [UInt8] = []
        var longest = 0
        while got.count < output.count {
            let message = try scene.next()
            longest = max(longest, message.body.count)
            got += message.body
        }
        #expect(got == output)
        #expect(longest <= chunk)
    }

    @Test(arguments: roles, 1...6 as ClosedRange<UInt64>)
    func aHostileStreamEndsTheChannelOrIsData(role: DataPump.Role, seed: UInt64) throws {
        let scene = try PumpScene(role)
        try scene.attachMainSink()
        if role == .caller { try scene.attachErrorSink() }
        var state = seed
        func next(_ limit: UInt64) -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return (state >> 33) % limit
        }
        var stream: [UInt8] = []
        for _ in 0..<200 {
            let length = next(300)
            stream += scene.little(UInt32(0x190 + next(4))) + scene.little(UInt32(length))
            stream += (0..<length).map { _ in UInt8(next(256)) }
        }
        for _ in 0..<seed { stream[Int(next(UInt64(stream.count)))] = UInt8(next(256)) }
        _ = try scene.sendWhatFits(stream)
        try scene.runAMoment()
        scene.closePeer()
        try scene.runUntilEnd()
        #expect(scene.end != nil)
    }
}
