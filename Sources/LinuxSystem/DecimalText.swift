/// A number in decimal digits, as `String(number)` writes it. For what every call needs: Swift's own
/// way serves all kinds of numbers, and its first use in a program reads four more pieces of it from
/// the file.
public func decimalText(_ number: UInt64) -> String {
    var digits: [UInt8] = []
    digits.reserveCapacity(20)
    var rest = number
    repeat {
        digits.append(UInt8(ascii: "0") + UInt8(rest % 10))
        rest /= 10
    } while rest > 0
    digits.reverse()
    return String(decoding: digits, as: UTF8.self)
}
