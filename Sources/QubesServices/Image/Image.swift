/// A picture as `qubes.GetImageRGBA` gives it: four bytes a pixel (red, green, blue, opacity), row by
/// row from the top.
struct Image: Equatable {
    let width: Int
    let height: Int
    var pixels: [UInt8]

    /// Why data is no picture that is understood here.
    struct Invalid: Error, Equatable { let reason: String }

    /// Pixels of a picture at most: 64 MiB.
    static let maximumPixels = 16 << 20

    static func check(width: Int, height: Int) throws(Invalid) {
        guard width > 0, height > 0, width <= maximumPixels, height <= maximumPixels / width else {
            throw Invalid(
                reason: "\(width) × \(height) pixels; from 1 to \(maximumPixels) are served")
        }
    }

    /// What the service answers.
    var answer: [UInt8] { Array("\(width) \(height)\n".utf8) + pixels }

    /// No wider and no higher than that, every so many pixels left out.
    func reduced(to size: Int) -> Image {
        let larger = max(width, height)
        if larger <= size { return self }
        let newWidth = max(1, width * size / larger)
        let newHeight = max(1, height * size / larger)
        var reduced: [UInt8] = []
        reduced.reserveCapacity(newWidth * newHeight * 4)
        for row in 0..<newHeight {
            for column in 0..<newWidth {
                let from = (row * height / newHeight * width + column * width / newWidth) * 4
                reduced += pixels[from..<(from + 4)]
            }
        }
        return Image(width: newWidth, height: newHeight, pixels: reduced)
    }
}

/// Pictures of the Netpbm family: binary and with one byte a value (P5, P6).
enum NetpbmReader {
    static func accepts(_ data: [UInt8]) -> Bool {
        data.count > 2 && data[0] == 0x50 && (data[1] == 0x35 || data[1] == 0x36)
    }

    static func read(_ data: [UInt8]) throws(Image.Invalid) -> Image {
        var next = 2
        func number() throws(Image.Invalid) -> Int {
            while next < data.count, isBlank(data[next]) || data[next] == UInt8(ascii: "#") {
                // A comment goes to the end of its line.
                if data[next] == UInt8(ascii: "#") {
                    while next < data.count, data[next] != 0x0A { next += 1 }
                } else {
                    next += 1
                }
            }
            let digits = data[next...].prefix(8).prefix { (0x30...0x39).contains($0) }
            guard !digits.isEmpty, digits.count < 8 else {
                throw Image.Invalid(reason: "bad number in the header")
            }
            next += digits.count
            return digits.reduce(0) { $0 * 10 + Int($1 - 0x30) }
        }
        let channels = data[1] == 0x36 ? 3 : 1
        let (width, height) = (try number(), try number())
        let maximum = try number()
        next += 1
        try Image.check(width: width, height: height)
        guard (1...255).contains(maximum) else {
            throw Image.Invalid(reason: "values above 255 are not understood")
        }
        guard data.count - next >= width * height * channels else {
            throw Image.Invalid(reason: "the data ends early")
        }
        var pixels: [UInt8] = []
        pixels.reserveCapacity(width * height * 4)
        for index in 0..<(width * height) {
            for channel in 0..<3 {
                let value = Int(data[next + index * channels + (channels == 3 ? channel : 0)])
                pixels.append(UInt8(min(value, maximum) * 255 / maximum))
            }
            pixels.append(255)
        }
        return Image(width: width, height: height, pixels: pixels)
    }

    private static func isBlank(_ byte: UInt8) -> Bool {
        byte == 0x20 || (0x09...0x0D).contains(byte)
    }
}
