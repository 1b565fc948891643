import Foundation
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import Testing

@testable import QrexecDom0

@Suite("The old form of qrexec-policy-exec")
struct ExecutionTests {
    /// A client that writes down how it is called.
    private func client(in directory: String, status: Int = 0) throws -> String {
        let path = directory + "/client"
        try "#!/bin/sh\nprintf '%s\\n' \"$@\" > \(directory)/arguments\nexit \(status)\n".write(
            toFile: path, atomically: true, encoding: .utf8)
        try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: path)
        return path
    }

    @Test("An allowed call is connected by qrexec-client, whose status it ends with")
    func connects() throws {
        let root = NSTemporaryDirectory() + "execution-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: root) }
        let execution = try PolicyExecution(
            domain: "7", source: "work", identifier: "SOCKET11", service: "my.Service",
            client: try client(in: root, status: 3), loop: try EventLoop())
        let answer = try PolicyAnswer(
            bytes: Array(
                "user=DEFAULT\nresult=allow\ntarget=vault\nautostart=False\nrequested_target=vault"
                    .utf8))
        #expect(try execution.execute(answer.permission!) == 3)
        let arguments = try String(contentsOfFile: root + "/arguments", encoding: .utf8)
        #expect(
            arguments
                == "-d\nvault\n-c\nSOCKET11,work,7\n--\nDEFAULT:QUBESRPC my.Service+ work\n")
        let own = try PolicyAnswer(
            bytes: Array(
                "user=DEFAULT\nresult=allow\ntarget=dom0\nautostart=True\nrequested_target=@adminvm"
                    .utf8))
        _ = try execution.execute(own.permission!)
        #expect(
            try String(contentsOfFile: root + "/arguments", encoding: .utf8)
                == "-d\ndom0\n-c\nSOCKET11,work,7\n--\nQUBESRPC my.Service+ work keyword adminvm\n")
    }

    @Test(
        "A domain or a request that is none is refused before anything is decided",
        arguments: [
            ("0", "x"), ("-1", "x"), ("x", "x"), ("70000", "x"), ("07", "x"), ("1", ""),
            ("1", "a,b"), ("1", "a\nb"), ("1", String(repeating: "a", count: 32)),
        ])
    func refuses(_ domain: String, _ identifier: String) throws {
        let loop = try EventLoop()
        #expect(throws: PolicyExecution.Failed.self) {
            try PolicyExecution(
                domain: domain, source: "work", identifier: identifier, service: "a",
                client: "/bin/true", loop: loop)
        }
    }
}
