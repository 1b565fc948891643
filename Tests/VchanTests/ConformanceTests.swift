import LinuxSystem
import Testing
import Vchan
import VchanTools

@Suite(.serialized) struct Conformance {
    static let cases = ConformanceCase.all(.init(bytes: 100_000, closes: 200))

    @Test func thereAreCasesOfEachKind() {
        #expect(Self.cases.count > 150)
        #expect(Set(Self.cases.map(\.name)).count == Self.cases.count)
    }

    @Test(arguments: cases)
    func overSharedMemory(_ which: ConformanceCase) async throws {
        let meeting = Meeting()
        try await run(which, meeting.ofServer, meeting.ofClient, tellsDeath: true)
    }

    @Test(arguments: cases.filter { !$0.needsRings })
    func overAByteStream(_ which: ConformanceCase) async throws {
        let meeting = Meeting()
        let server = Transport.socket(directory: meeting.state, ownDomain: meeting.server)
        let client = Transport.socket(directory: meeting.state, ownDomain: meeting.client)
        try await run(which, server, client, tellsDeath: false)
    }

    private func run(
        _ which: ConformanceCase, _ server: Transport, _ client: Transport, tellsDeath: Bool
    ) async throws {
        func side(_ role: ConformanceSide.Role) throws -> ConformanceSide {
            let isServer = role == .server
            return ConformanceSide(
                role: role, transport: isServer ? server : client,
                peer: try isServer ? client.ownDomain : server.ownDomain, port: Port(512)!,
                tellsDeath: tellsDeath, crashesForReal: false)
        }
        let (one, other) = (try side(.server), try side(.client))
        let serving = onThread { try which.run(one) }
        let joining = onThread { try which.run(other) }
        try await serving.value
        try await joining.value
    }
}

/// The same cases between processes, with deaths by SIGKILL.
@Suite struct ConformanceProgramTests {
    @Test func aFilterThatMatchesNothingIsAFailure() {
        let arguments = ["vchan-conformance", "--case", "no such case"]
        #expect(ConformanceProgram.run(arguments: arguments) == 1)
    }

    @Test(arguments: [
        ["--listen"], ["--listen", "--connect"], ["--domain", "99999"], ["--ring", "2000000"],
        ["--transport", "carrier-pigeon"], ["--state", "/tmp"], ["--own-domain", "3"],
        ["--transport", "xen", "--state", "/tmp", "--own-domain", "3"], ["more"],
    ])
    func vchanCatTellsWrongUsageApart(extra: [String]) {
        let enough = ["--listen", "--domain", "1", "--port", "2"]
        let arguments = extra.first == "--listen" ? extra : enough + extra
        #expect(VchanCat.run(arguments: ["vchan-cat"] + arguments) == 2)
    }

    @Test func wrongUsageIsToldApart() {
        for bad in [["--role", "queen"], ["--closes", "-1"], ["x"], ["--role", "server"]] {
            #expect(ConformanceProgram.run(arguments: ["vchan-conformance"] + bad) == 2)
        }
    }
}
