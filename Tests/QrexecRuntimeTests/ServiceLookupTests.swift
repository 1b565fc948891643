import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

@testable import QrexecRuntime

@Suite struct LookingUpServices {
    private func call(_ descriptor: String) -> ServiceCall {
        ServiceCall(descriptor: descriptor, source: "src")
    }

    private func status(
        _ lookup: ServiceLookup, _ descriptor: String
    ) -> Int32? {
        do throws(ServiceLookup.Failure) {
            _ = try lookup.find(call(descriptor))
            return nil
        } catch { return error.status }
    }

    @Test func theArgumentsOwnFileInAnyDirectoryComesFirst() throws {
        let scene = try Scene()
        try scene.makeDirectory("a")
        try scene.makeDirectory("b")
        try scene.makeFile("a/svc", mode: 0o755)
        try scene.makeFile("b/svc", mode: 0o755)
        try scene.makeFile("b/svc+x", mode: 0o755)
        try scene.makeFile("b/svc+", mode: 0o755)
        let lookup = ServiceLookup(path: ":\(scene.path)/a::\(scene.path)/none:\(scene.path)/b:")
        #expect(lookup.directories.count == 3)
        #expect(try lookup.find(call("svc+x")) == .executable(path: "\(scene.path)/b/svc+x"))
        #expect(try lookup.find(call("svc+y")) == .executable(path: "\(scene.path)/a/svc"))
        #expect(try lookup.find(call("svc+")) == .executable(path: "\(scene.path)/b/svc+"))
        #expect(try lookup.find(call("svc")) == .executable(path: "\(scene.path)/b/svc+"))
    }

    @Test func whatIsNotThereIsNotFound() throws {
        let scene = try Scene()
        try scene.makeLink("dangling", to: "/nowhere/at/all")
        let lookup = ServiceLookup(path: scene.path)
        #expect(throws: ServiceLookup.Failure.notFound) { _ = try lookup.find(call("none")) }
        #expect(throws: ServiceLookup.Failure.notFound) { _ = try lookup.find(call("dangling+")) }
        #expect(throws: ServiceLookup.Failure.notFound) {
            _ = try ServiceLookup(path: "").find(call("none"))
        }
        #expect(ServiceLookup.Failure.notFound.status == 127)
    }

    @Test func aDanglingLinkHidesNothing() throws {
        let scene = try Scene()
        try scene.makeLink("svc+x", to: "/nowhere/at/all")
        try scene.makeFile("svc", mode: 0o755)
        let lookup = ServiceLookup(path: scene.path)
        #expect(try lookup.find(call("svc+x")) == .executable(path: "\(scene.path)/svc"))
    }

    @Test func namesOfOver255BytesAreSkipped() throws {
        let scene = try Scene()
        let name = String(repeating: "n", count: 255)
        try scene.makeFile(name, mode: 0o755)
        let lookup = ServiceLookup(path: scene.path)
        let long = String(repeating: "a", count: 5000)
        #expect(
            try lookup.find(call("\(name)+\(long)")) == .executable(path: "\(scene.path)/\(name)"))
        #expect(status(lookup, "svc+\(long)") == 127)
    }

    @Test func whatCannotServeIsAProblem() throws {
        let scene = try Scene()
        try scene.makeFile("plain")
        try scene.makeDirectory("folder")
        try scene.makeLink("through", to: "plain/x")
        try scene.makeLink("loop", to: "loop")
        let lookup = ServiceLookup(path: scene.path)
        for name in ["plain", "folder", "through", "loop", ".", ".."] {
            #expect(status(lookup, name) == 125, "\(name)")
        }
    }

    @Test func linksLeadToTheirServices() throws {
        let scene = try Scene()
        try scene.makeLink("svc", to: "/bin/sh")
        let socket = try UnixSocket.listen("\(scene.path)/socket", mode: 0o600)
        let lookup = ServiceLookup(path: scene.path)
        #expect(try lookup.find(call("svc+a")) == .executable(path: "\(scene.path)/svc"))
        #expect(try lookup.find(call("socket+")) == .unixSocket(path: "\(scene.path)/socket"))
        _ = consume socket
    }

    @Test func aLinkToTheTCPDeviceIsReadAndNotFollowed() throws {
        let scene = try Scene()
        try scene.makeLink("fixed", to: "/dev/tcp/127.0.0.1/8082")
        try scene.makeLink("port", to: "/dev/tcp/::1")
        try scene.makeLink("any", to: "/dev/tcp")
        try scene.makeLink("other", to: "/dev/tcpx/127.0.0.1/80")
        let lookup = ServiceLookup(path: scene.path)
        #expect(try lookup.find(call("fixed+")) == .tcp(host: "127.0.0.1", port: 8082))
        #expect(try lookup.find(call("port+22")) == .tcp(host: "::1", port: 22))
        #expect(try lookup.find(call("any+10.0.0.1+80")) == .tcp(host: "10.0.0.1", port: 80))
        #expect(status(lookup, "fixed+1") == 125)
        #expect(status(lookup, "port") == 125)
        #expect(status(lookup, "other") == 127)
    }
}

@Suite struct TCPServices {
    @Test(
        arguments: [
            ("/dev/tcp/127.0.0.1/1", nil, "127.0.0.1", 1), ("/dev/tcp/h/65535", "", "h", 65535),
            ("/dev/tcp/::1/22", "", "::1", 22), ("/dev/tcp/127.0.0.1", "80", "127.0.0.1", 80),
            ("/dev/tcp", "h+80", "h", 80), ("/dev/tcp", "fe80++1+443", "fe80::1", 443),
            ("/dev/tcp", "++1+9", "::1", 9),
        ] as [(String, String?, String, UInt16)])
    func aLinkAndAnArgumentGiveHostAndPort(
        link: String, argument: String?, host: String, port: UInt16
    ) throws {
        let endpoint = try TCPEndpoint(link: link, argument: argument)
        #expect(endpoint.host == host)
        #expect(endpoint.port == port)
    }

    @Test(
        arguments: [
            ("/dev/tcp/h/80", "80"), ("/dev/tcp/h/80", "+"), ("/dev/tcp/h/0", nil),
            ("/dev/tcp/h/080", nil), ("/dev/tcp/h/65536", nil), ("/dev/tcp/h/99999999999", nil),
            ("/dev/tcp/h/", nil), ("/dev/tcp/h/8x", nil), ("/dev/tcp/h/+8", nil),
            ("/dev/tcp/h/80/", nil), ("/dev/tcp/h/80/x", nil), ("/dev/tcp//80", nil),
            ("/dev/tcp/", "80"), ("/dev/tcp/", nil), ("/dev/tcp/h", nil), ("/dev/tcp/h", ""),
            ("/dev/tcp/h", "-1"), ("/dev/tcp/h", "x+1"), ("/dev/tcp", nil), ("/dev/tcp", ""),
            ("/dev/tcp", "80"), ("/dev/tcp", "h+"), ("/dev/tcp", "+80"), ("/dev/tcp", "a_b+80"),
            ("/dev/tcp", "h+80+"),
        ] as [(String, String?)])
    func anythingElseIsInvalid(link: String, argument: String?) {
        #expect(throws: TCPEndpoint.Invalid.self) {
            _ = try TCPEndpoint(link: link, argument: argument)
        }
    }
}
