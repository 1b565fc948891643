import Testing

@testable import QrexecDom0

@Suite("What the manager tells of its qubes")
struct SystemInfoTests {
    @Test("System information is JSON whatever the names hold")
    func systemInfo() {
        var qube = QubeRecord(name: "work", type: .app, label: "blue", uuid: "u")
        qube.tags = ["a\"b\\\u{1}"]
        let text = SystemInfoWriter.json([qube])
        #expect(text.contains("\"tags\": [\"a\\\"b\\\\\\u0001\"]"))
        #expect(text.contains("\"icon\": \"appvm-blue\""))
        #expect(text.contains("\"power_state\": \"Halted\""))
        #expect(text.hasPrefix("{\"domains\": {\"work\": {"))
    }
}
