import Glibc
import LinuxSystem
import SystemPackage

/// The log of a lab's qubes, a line `<qube>: <text>` each.
struct LabLog {
    let path: String

    private static let maximumSize = 64 << 20

    private func lines(of path: String) -> [Substring] {
        guard
            let bytes = try? Descriptor.open(path, O_RDONLY | O_NOFOLLOW)
                .readAll(limit: Self.maximumSize)
        else { return [] }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n")
    }

    /// The last lines.
    func tail(_ count: Int) -> [String] { lines(of: path).suffix(count).map(String.init) }

    /// Shows the lines of a qube, or all; the older file that was turned over first.
    func show(_ qube: String?, _ print: (Substring) -> Void) {
        for line in lines(of: path + ".1") + lines(of: path) where Self.matches(line, qube) {
            print(line)
        }
    }

    /// Everything that all programs have told about one call: the lines with its id, and those of
    /// both qubes about the same channel, which each knows by the other's domain number and the port.
    func show(call id: String, _ print: (Substring) -> Void) -> Bool {
        let all = lines(of: path + ".1") + lines(of: path)
        let isOwn = { (line: Substring) in line.split(separator: " ").contains("id=\(id)") }
        // The caller's daemon tells the place; others who know the id may write after it.
        let isPlaced = { (line: Substring) in isOwn(line) && line.contains(" place=") }
        guard let index = all.lastIndex(where: isPlaced) ?? all.lastIndex(where: isOwn)
        else { return false }
        let words = all[index].split(separator: " ")
        guard let place = Self.field("place", words), let domain = Self.field("domain", words),
            let colon = place.firstIndex(of: ":")
        else {
            all.filter(isOwn).forEach(print)
            return true
        }
        // A call to dom0 has a port of its own qube; the other side knows it as domain 0.
        let port = place[place.index(after: colon)...]
        let caller = place.hasPrefix("0:") ? "0" : domain
        let channel = " domain=\(caller) port=\(port)"
        let mark = { (channel: String, line: Substring) in
            line.hasSuffix(channel) || line.contains(channel + " ")
        }
        let isChannel = { (line: Substring) in mark(channel, line) }
        let source = Self.field("source", words) ?? ""
        let placed = " domain=\(place[..<colon]) port=\(port)"
        let isCaller = { (line: Substring) in
            line.hasPrefix("\(source): ") && line.contains(" call placed ") && mark(placed, line)
        }
        let isEnd = { (line: Substring) in isChannel(line) && line.contains(" call ended ") }
        let first = all[..<index].lastIndex(where: isEnd).map { $0 + 1 } ?? 0
        let last = all[index...].firstIndex(where: isEnd) ?? all.count - 1
        // A line may be written when nobody waits for its writer any more, even after the end.
        for (index, line) in all.enumerated()
        where isOwn(line)
            || (first...last).contains(index) && (isChannel(line) || isCaller(line))
        { print(line) }
        return true
    }

    private static func field(_ key: String, _ words: [Substring]) -> Substring? {
        words.first { $0.hasPrefix(key + "=") }.map { $0.dropFirst(key.count + 1) }
    }

    static func matches(_ line: Substring, _ qube: String?) -> Bool {
        guard let qube else { return true }
        return line.hasPrefix(qube + ": ")
    }

    /// Shows the lines there are and those that come, until the lab is gone.
    func follow(_ qube: String?, _ print: (Substring) -> Void) throws(Errno) {
        var file = OwnedDescriptor(try Descriptor.open(path, O_RDONLY | O_NOFOLLOW))
        var offset = 0
        var pending: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = try file.descriptor.read(into: &chunk)
            if count > 0 {
                offset += count
                pending += chunk[..<count]
                while let end = pending.firstIndex(of: 0x0A) {
                    let line = String(decoding: pending[..<end], as: UTF8.self)
                    pending.removeSubrange(...end)
                    if Self.matches(line[...], qube) { print(line[...]) }
                }
                continue
            }
            usleep(100_000)
            guard PathStatus.exists(path) else { return }
            let now = try Descriptor.open(path, O_RDONLY | O_NOFOLLOW)
            // A shorter file is a new one: the old was turned over at its size.
            if try now.fileSize() < offset {
                file = OwnedDescriptor(now)
                offset = 0
            }
        }
    }
}
