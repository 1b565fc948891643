import Testing

@testable import QubesServices

@Suite struct ConnectTCPTests {
    private func route(_ text: String) throws -> (UInt16, String, UInt16) {
        let route = try ConnectTCPTool.Route(text)
        return (route.localPort, route.target, route.port)
    }

    @Test(arguments: [
        ("8080:web:80", 8080, "web", 80), (":web:80", 80, "web", 80), ("::80", 80, "@default", 80),
        ("1::65535", 1, "@default", 65535), ("1:@dispvm:base:2", 1, "@dispvm:base", 2),
    ])
    func readsARoute(text: String, local: UInt16, target: String, port: UInt16) throws {
        #expect(try route(text) == (local, target, port))
    }

    @Test(arguments: [
        "", "80", "web:80", ":", "::", "a:web:80", "80:web:", "80:web:x", "0:web:80", "80:web:0",
        "80:web:65536", "65536:web:80", "-1:web:80", "80:web:+80", "080:web:80", "80:-x:80",
        "80:web:8 0", "80:web:80/x",
    ])
    func refusesWhatIsNone(text: String) {
        #expect(throws: ConnectTCPTool.Route.Invalid.self) { try route(text) }
    }
}
