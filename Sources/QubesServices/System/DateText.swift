import QrexecRuntime

/// A moment as `qubes.GetDate` writes it: ISO 8601 in UTC, like `2026-11-21T15:10:20+00:00`, with
/// nanoseconds `2026-11-21T15:10:20,123456789+00:00`.
struct DateText: Equatable {
    /// Since 1970.
    var seconds: Int
    var nanoseconds: Int

    init(seconds: Int, nanoseconds: Int) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }

    func text(withNanoseconds: Bool) -> String {
        let days = seconds / Self.day
        let second = seconds % Self.day
        let date = Timestamp.civil(daysSince1970: days)
        let fraction = withNanoseconds ? "," + Self.padded(nanoseconds, 9) : ""
        return "\(Self.padded(date.year, 4))-\(Self.padded(date.month, 2))-"
            + "\(Self.padded(date.day, 2))T\(Self.padded(second / 3600, 2)):"
            + "\(Self.padded(second / 60 % 60, 2)):\(Self.padded(second % 60, 2))\(fraction)+00:00"
    }

    /// Reads exactly that, from 1970 to 9999; the fraction after `,` or `.` has 1 to 9 digits, and
    /// `Z` or `+0000` may stand for `+00:00`.
    init?(_ text: some StringProtocol) {
        var rest = Array(text.utf8)[...]
        func number(_ digits: Int, _ separator: UInt8?) -> Int? {
            guard rest.count >= digits, rest.prefix(digits).allSatisfy(Self.isDigit) else {
                return nil
            }
            let value = rest.prefix(digits).reduce(0) { $0 * 10 + Int($1 - 0x30) }
            rest = rest.dropFirst(digits)
            if let separator, rest.popFirst() != separator { return nil }
            return value
        }
        guard let year = number(4, 0x2D), let month = number(2, 0x2D), let day = number(2, 0x54),
            let hour = number(2, 0x3A), let minute = number(2, 0x3A), let second = number(2, nil),
            year >= 1970, (1...12).contains(month), (1...31).contains(day), hour < 24, minute < 60,
            second < 60
        else { return nil }
        nanoseconds = 0
        if rest.first == UInt8(ascii: ",") || rest.first == UInt8(ascii: ".") {
            let digits = rest.dropFirst().prefix(while: Self.isDigit)
            guard (1...9).contains(digits.count) else { return nil }
            rest = rest.dropFirst(1 + digits.count)
            nanoseconds = digits.reduce(0) { $0 * 10 + Int($1 - 0x30) }
            for _ in digits.count..<9 { nanoseconds *= 10 }
        }
        guard ["+00:00", "+0000", "Z"].contains(where: { rest.elementsEqual($0.utf8) }) else {
            return nil
        }
        let days = Self.days(year, month, day)
        // The 30th of February would be the 2nd of March.
        guard Timestamp.civil(daysSince1970: days) == (year, month, day) else { return nil }
        seconds = days * Self.day + hour * 3600 + minute * 60 + second
    }

    private static let day = 86400

    private static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }

    private static func padded(_ value: Int, _ digits: Int) -> String {
        let text = String(value)
        return String(repeating: "0", count: max(0, digits - text.count)) + text
    }

    /// Days since 1970 of a date of the Gregorian calendar, counting years from March so that the
    /// day that some of them lack comes last.
    private static func days(_ year: Int, _ month: Int, _ day: Int) -> Int {
        let y = month > 2 ? year : year - 1
        let m = (month + 9) % 12
        return y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 719_469
    }
}
