import Testing

@testable import QubesServices

@Suite struct DateTextTests {
    @Test(arguments: [
        (0, "1970-01-01T00:00:00+00:00"), (951_782_400, "2000-02-29T00:00:00+00:00"),
        (1_767_225_599, "2025-12-31T23:59:59+00:00"), (4_107_542_400, "2100-03-01T00:00:00+00:00"),
        (253_402_300_799, "9999-12-31T23:59:59+00:00"),
    ])
    func writesAndReadsADate(seconds: Int, text: String) {
        #expect(DateText(seconds: seconds, nanoseconds: 7).text(withNanoseconds: false) == text)
        #expect(DateText(text) == DateText(seconds: seconds, nanoseconds: 0))
    }

    @Test func everyDayOfFourCenturiesComesBack() {
        for day in 0..<146_097 {
            let date = DateText(seconds: day * 86400 + day % 86400, nanoseconds: 0)
            #expect(DateText(date.text(withNanoseconds: false)) == date)
        }
    }

    @Test(arguments: [
        ("2026-11-21T15:10:20,123456789+00:00", 123_456_789),
        ("2026-11-21T15:10:20.5Z", 500_000_000),
        ("2026-11-21T15:10:20Z", 0), ("2026-11-21T15:10:20+0000", 0),
        ("2026-11-21T15:10:20,000000001+00:00", 1),
    ])
    func readsFractions(text: String, nanoseconds: Int) {
        #expect(DateText(text) == DateText(seconds: 1_795_273_820, nanoseconds: nanoseconds))
    }

    @Test func writesNanoseconds() {
        let date = DateText(seconds: 0, nanoseconds: 42)
        #expect(date.text(withNanoseconds: true) == "1970-01-01T00:00:00,000000042+00:00")
    }

    @Test(arguments: [
        "", "now", "2026-11-21", "2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z", "2026-01-00T00:00:00Z", "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z", "2026-01-01T00:00:61Z", "1969-12-31T23:59:59Z",
        "2026-01-01T00:00:00", "2026-01-01T00:00:00+01:00", "2026-01-01T00:00:00Z; reboot",
        "2026-01-01T00:00:00,Z", "2026-01-01T00:00:00,1234567890Z", "2026-01-01 00:00:00Z",
        "２026-01-01T00:00:00Z", "-026-01-01T00:00:00Z", "2026-01-01T00:00:00Z\n",
        "2026-01-01T00:00:00Z\u{0}",
    ])
    func takesNothingElseForADate(text: String) { #expect(DateText(text) == nil) }
}
