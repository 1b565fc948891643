import Glibc
import Testing

extension Dom0Programs {
    /// What a daemon's local clients may do.
    @Suite struct DaemonClients {
        let scene: Scene
        init() throws { scene = try Scene() }

        @Test(arguments: [0x200, 0x201] as [UInt32])
        func aCommandGetsAPortAndGoesToTheAgent(type: UInt32) throws {
            let (agent, _) = try scene.daemon()
            let client = try scene.client()
            try client.send(exec(type, 0, 0, "joe:echo hello"))
            #expect(try client.message() == place(type, 42, 513))
            #expect(try agent.message() == exec(type, 0, 513, "joe:echo hello"))
            #expect(client.isQuiet())
            // The end of the connection is the end of the call.
            try agent.send(place(0x211, 0, 513))
            #expect(client.isClosed())
        }

        @Test func aCommandForTheDefaultUserNamesIt() throws {
            let (agent, _) = try scene.daemon()
            let client = try scene.client()
            try client.send(exec(0, 0, "DEFAULT:QUBESRPC a.B+ dom0"))
            _ = try client.message()
            #expect(try agent.message() == exec(0, 513, "user:QUBESRPC a.B+ dom0"))
            // Nothing else is one.
            let second = try scene.client()
            try second.send(exec(0, 0, "DEFAULTx:DEFAULT:"))
            _ = try second.message()
            #expect(try agent.message() == exec(0, 514, "DEFAULTx:DEFAULT:"))
        }

        @Test(arguments: [513, 600, 768] as [UInt32])
        func aClientThatNamesThePortGetsNoAnswer(port: UInt32) throws {
            let (agent, _) = try scene.daemon()
            let client = try scene.client()
            try client.send(exec(7, port, "user:true"))
            #expect(try agent.message() == exec(7, port, "user:true"))
            #expect(client.isQuiet())
        }

        @Test func aCommandMayHave65527Bytes() throws {
            let (agent, _) = try scene.daemon()
            let client = try scene.client()
            let command = "user:" + String(repeating: "x", count: 65527 - 6)
            try client.send(exec(0, 0, command))
            #expect(try client.message() == place(0x200, 42, 513))
            #expect(try agent.message() == exec(0, 513, command))
        }

        static let bad: [[UInt8]] = [
            exec(0, 512, "user:true"), exec(0, 769, "user:true"), exec(0, .max, "user:true"),
            message(0x200, little(0) + little(0)), message(0x200, []),
            message(0x200, little(0) + little(0) + Array("user:true".utf8)),
            little(0x200) + little(65536), little(0x200) + little(.max),
            message(0x300, little(3)), message(0x203, field("SOCKET7", 32)),
            message(0x211, little(0) + little(513)), trigger(4), message(0x190, [1]),
            message(0x999, []), serviceConnect(5, 514, "SOCKET7"), serviceConnect(0, 0, ""),
            message(0x202, little(5) + little(514)), little(0) + little(0),
        ]

        @Test(arguments: bad)
        func whoBreaksTheRulesIsClosedAndNothingReachesTheAgent(bytes: [UInt8]) throws {
            let (agent, _) = try scene.daemon()
            let client = try scene.client()
            try client.send(bytes)
            #expect(client.isClosed())
            #expect(agent.isQuiet())
            try call(agent)
        }

        @Test(arguments: [
            hello(2), hello(0), message(0x300, [3]), exec(0, 0, "user:true"),
            [1, 2, 3, 4, 5, 6, 7, 8],
        ])
        func whoDoesNotGreetWellIsClosed(bytes: [UInt8]) throws {
            let (agent, _) = try scene.daemon()
            let client = try Peer(connectingTo: scene.socket("42"))
            #expect(try client.message() == hello(3))
            try client.send(bytes)
            #expect(client.isClosed())
            try call(agent)
        }

        @Test(arguments: [3, 4, 99] as [UInt32]) func laterLocalVersionsAreWelcome(version: UInt32)
            throws
        {
            let (agent, _) = try scene.daemon()
            let client = try Peer(connectingTo: scene.socket("42"))
            try client.send(hello(version) + exec(0, 0, "user:true"))
            #expect(try client.message() == hello(3))
            #expect(try client.message() == place(0x200, 42, 513))
            withExtendedLifetime(agent) {}
        }

        @Test func oneCommandAConnection() throws {
            let (agent, _) = try scene.daemon()
            let client = try scene.client()
            try client.send(exec(0, 0, "user:true") + exec(0, 0, "user:false"))
            #expect(try client.message() == place(0x200, 42, 513))
            #expect(client.isClosed())
            #expect(try agent.message() == exec(0, 513, "user:true"))
            #expect(agent.isQuiet())
        }

        @Test func messagesMayComeByteByByte() throws {
            let (agent, _) = try scene.daemon()
            let client = try Peer(connectingTo: scene.socket("42"))
            for byte in hello(3) + exec(0, 0, "user:true") { try client.send([byte]) }
            #expect(try client.message() == hello(3))
            #expect(try client.message() == place(0x200, 42, 513))
            #expect(try agent.message() == exec(0, 513, "user:true"))
        }

        @Test func silentAndHalfClientsDisturbNobody() throws {
            let (agent, _) = try scene.daemon()
            let silent = try (0..<50).map { _ in try Peer(connectingTo: scene.socket("42")) }
            for peer in silent { try peer.send(Array(hello(3).prefix(5))) }
            try call(agent)
            withExtendedLifetime(silent) {}
        }

        @Test func moreCallsThanPortsAreRefusedAndOthersGoOn() throws {
            let (agent, _) = try scene.daemon()
            var clients: [Peer] = []
            for port in 513...768 {
                clients.append(try scene.client())
                try clients.last!.send(exec(0, 0, "user:true"))
                #expect(try clients.last!.message() == place(0x200, 42, UInt32(port)))
                #expect(try agent.message() == exec(0, UInt32(port), "user:true"))
            }
            let late = try scene.client()
            try late.send(exec(0, 0, "user:true"))
            #expect(late.isClosed())
            #expect(agent.isQuiet())
            // Only its own peer frees a port.
            try agent.send(place(0x211, 7, 600))
            #expect(clients[600 - 513].isQuiet())
            try agent.send(place(0x211, 0, 600))
            #expect(clients[600 - 513].isClosed())
            let next = try scene.client()
            try next.send(exec(0, 0, "user:true"))
            #expect(try next.message() == place(0x200, 42, 600))
        }

        @Test(arguments: [(7, 513), (41, 513), (43, 514), (9000, 514)] as [(UInt32, UInt32)])
        func portsOfOtherQubesAreSplitByParity(peer: UInt32, first: UInt32) throws {
            let (agent, _) = try scene.daemon()
            let client = try scene.client()
            try client.send(exec(peer, 0, "user:true"))
            #expect(try client.message() == place(0x200, 42, first))
            #expect(try agent.message() == exec(peer, first, "user:true"))
            let second = try scene.client()
            try second.send(exec(peer, 0, "user:true"))
            #expect(try second.message() == place(0x200, 42, first + 2))
        }

        @Test func aClientThatLeavesFreesNothing() throws {
            let (agent, _) = try scene.daemon()
            do {
                let client = try scene.client()
                try client.send(exec(0, 0, "user:true"))
                _ = try client.message()
            }
            let next = try scene.client()
            try next.send(exec(0, 0, "user:true"))
            #expect(try next.message() == place(0x200, 42, 514))
            withExtendedLifetime(agent) {}
        }

        /// The daemon and its agent still work.
        private func call(_ agent: Peer) throws {
            let client = try scene.client()
            try client.send(exec(0, 0, "user:true"))
            #expect(try client.message() == place(0x200, 42, 513))
            #expect(try agent.message() == exec(0, 513, "user:true"))
        }
    }
}
