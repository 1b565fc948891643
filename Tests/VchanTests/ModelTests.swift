import LinuxSystem
import Testing

/// The protocol itself, by the model checker (package spin).
@Suite struct Model {
    @Test func theProtocolHoldsAndEachKnownFaultIsFound() throws {
        let script = #filePath.replacing("VchanTests/ModelTests.swift", with: "Models/check")
        var request = SpawnRequest(
            path: script, arguments: [script], environment: CurrentProcess.environment)
        request.diesWithParent = false
        #expect(try ChildProcess.spawn(request).reap() == 0)
    }
}
