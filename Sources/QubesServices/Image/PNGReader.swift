/// Pictures in the PNG format, of every kind that it has (ISO/IEC 15948).
struct PNGReader {
    private static let signature: [UInt8] = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]

    static func accepts(_ data: [UInt8]) -> Bool { data.starts(with: signature) }

    /// Values of a pixel by the colour type.
    private enum Colour: UInt8 {
        case grey = 0
        case rgb = 2
        case palette = 3
        case greyWithOpacity = 4
        case rgbWithOpacity = 6

        var channels: Int {
            switch self {
            case .grey, .palette: 1
            case .greyWithOpacity: 2
            case .rgb: 3
            case .rgbWithOpacity: 4
            }
        }

        var depths: [Int] {
            switch self {
            case .grey: [1, 2, 4, 8, 16]
            case .palette: [1, 2, 4, 8]
            default: [8, 16]
            }
        }
    }

    private var width = 0
    private var height = 0
    private var depth = 0
    private var colour = Colour.grey
    private var isInterlaced = false
    private var palette: [UInt8] = []
    private var transparency: [UInt8] = []
    private var compressed: [UInt8] = []

    static func read(_ data: [UInt8]) throws(Image.Invalid) -> Image {
        var reader = PNGReader()
        try reader.readChunks(data)
        return try reader.image()
    }

    private init() {}

    // MARK: Chunks

    private mutating func readChunks(_ data: [UInt8]) throws(Image.Invalid) {
        var next = Self.signature.count
        while data.count - next >= 12 {
            let length = Int(Self.number(data, next))
            let type = String(decoding: data[(next + 4)..<(next + 8)], as: UTF8.self)
            guard length <= data.count - next - 12 else {
                throw Image.Invalid(reason: "the data ends early")
            }
            let body = data[(next + 8)..<(next + 8 + length)]
            next += 12 + length
            if width == 0, type != "IHDR" { throw Image.Invalid(reason: "it has no header") }
            switch type {
            case "IHDR": try readHeader(Array(body))
            case "PLTE": palette = Array(body)
            case "tRNS": transparency = Array(body)
            case "IDAT": compressed += body
            case "IEND": return
            default: break
            }
        }
        throw Image.Invalid(reason: "the data ends early")
    }

    private static func number(_ data: [UInt8], _ at: Int) -> UInt32 {
        data[at..<(at + 4)].reduce(0) { $0 << 8 | UInt32($1) }
    }

    private mutating func readHeader(_ body: [UInt8]) throws(Image.Invalid) {
        guard body.count == 13, width == 0, let colour = Colour(rawValue: body[9]),
            colour.depths.contains(Int(body[8])), body[10] == 0, body[11] == 0, body[12] < 2
        else { throw Image.Invalid(reason: "bad header") }
        width = Int(Self.number(body, 0))
        height = Int(Self.number(body, 4))
        try Image.check(width: width, height: height)
        depth = Int(body[8])
        self.colour = colour
        isInterlaced = body[12] == 1
    }

    // MARK: Rows

    /// A part of the picture that is stored by itself: every so many pixels and rows from a first.
    private struct Pass {
        var x: Int, y: Int, dx: Int, dy: Int
        var width: Int, height: Int
    }

    private var passes: [Pass] {
        let places =
            isInterlaced
            ? [
                (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                (0, 1, 1, 2),
            ] : [(0, 0, 1, 1)]
        return places.map { x, y, dx, dy in
            Pass(
                x: x, y: y, dx: dx, dy: dy, width: max(0, (width - x + dx - 1) / dx),
                height: max(0, (height - y + dy - 1) / dy))
        }.filter { $0.width > 0 && $0.height > 0 }
    }

    private func rowLength(_ pass: Pass) -> Int {
        (pass.width * colour.channels * depth + 7) / 8
    }

    private func image() throws(Image.Invalid) -> Image {
        if colour == .palette, palette.isEmpty || palette.count % 3 != 0 {
            throw Image.Invalid(reason: "bad palette")
        }
        let size = passes.reduce(0) { $0 + $1.height * (1 + rowLength($1)) }
        guard compressed.count > 2, compressed[0] & 0xF == 8, compressed[1] & 0x20 == 0 else {
            throw Image.Invalid(reason: "bad compressed data")
        }
        var data: [UInt8]
        do throws(Inflate.Invalid) {
            data = try Inflate.decompress(compressed, from: 2, limit: size)
        } catch {
            throw Image.Invalid(reason: error.reason)
        }
        guard data.count == size else { throw Image.Invalid(reason: "the data ends early") }
        var image = Image(
            width: width, height: height,
            pixels: [UInt8](repeating: 0, count: width * height * 4))
        var next = 0
        for pass in passes {
            let length = rowLength(pass)
            try unfilter(&data, from: next, rows: pass.height, length: length)
            for row in 0..<pass.height {
                let start = next + row * (1 + length) + 1
                try place(data, start, pass, row, in: &image)
            }
            next += pass.height * (1 + length)
        }
        return image
    }

    /// Undoes the prediction of each row from its neighbours.
    private func unfilter(
        _ data: inout [UInt8], from start: Int, rows: Int, length: Int
    ) throws(Image.Invalid) {
        let step = max(1, colour.channels * depth / 8)
        for row in 0..<rows {
            let line = start + row * (1 + length)
            let filter = data[line]
            if filter > 4 { throw Image.Invalid(reason: "unknown filter \(filter)") }
            if filter == 0 { continue }
            for index in 0..<length {
                let at = line + 1 + index
                let left = index >= step ? Int(data[at - step]) : 0
                let above = row > 0 ? Int(data[at - 1 - length]) : 0
                let corner = index >= step && row > 0 ? Int(data[at - 1 - length - step]) : 0
                let predicted =
                    switch filter {
                    case 1: left
                    case 2: above
                    case 3: (left + above) / 2
                    default: Self.paeth(left, above, corner)
                    }
                data[at] &+= UInt8(truncatingIfNeeded: predicted)
            }
        }
    }

    private static func paeth(_ left: Int, _ above: Int, _ corner: Int) -> Int {
        let guess = left + above - corner
        let (a, b, c) = (abs(guess - left), abs(guess - above), abs(guess - corner))
        if a <= b && a <= c { return left }
        return b <= c ? above : corner
    }

    // MARK: Pixels

    private func place(
        _ data: [UInt8], _ start: Int, _ pass: Pass, _ row: Int, in image: inout Image
    ) throws(Image.Invalid) {
        for column in 0..<pass.width {
            let pixel = try pixel(data, start, column)
            let at = ((pass.y + row * pass.dy) * width + pass.x + column * pass.dx) * 4
            for channel in 0..<4 { image.pixels[at + channel] = pixel[channel] }
        }
    }

    /// A value as it is stored: `depth` bits.
    private func value(_ data: [UInt8], _ start: Int, _ index: Int) -> Int {
        switch depth {
        case 8: return Int(data[start + index])
        case 16: return Int(data[start + index * 2]) << 8 | Int(data[start + index * 2 + 1])
        default:
            let bit = index * depth
            let shift = 8 - depth - bit % 8
            return Int(data[start + bit / 8]) >> shift & (1 << depth - 1)
        }
    }

    private func byte(_ value: Int) -> UInt8 {
        depth == 16 ? UInt8(value >> 8) : UInt8(value * 255 / (1 << depth - 1))
    }

    /// A channel of the colour that is declared transparent.
    private func declaredValue(_ channel: Int) -> Int {
        Int(transparency[channel * 2]) << 8 | Int(transparency[channel * 2 + 1])
    }

    private func pixel(
        _ data: [UInt8], _ start: Int, _ column: Int
    ) throws(Image.Invalid) -> [UInt8] {
        let channels = colour.channels
        let values = (0..<channels).map { value(data, start, column * channels + $0) }
        switch colour {
        case .palette:
            let at = values[0] * 3
            guard at + 3 <= palette.count else {
                throw Image.Invalid(reason: "a colour that the palette does not have")
            }
            let opacity = values[0] < transparency.count ? transparency[values[0]] : 255
            return Array(palette[at..<(at + 3)]) + [opacity]
        case .grey, .rgb:
            let colours = values.count == 1 ? [values[0], values[0], values[0]] : values
            // One colour may be declared transparent, in 16 bits a value.
            let isTransparent =
                transparency.count == channels * 2
                && (0..<channels).allSatisfy { declaredValue($0) == values[$0] }
            return colours.map(byte) + [isTransparent ? 0 : 255]
        case .greyWithOpacity:
            return [byte(values[0]), byte(values[0]), byte(values[0]), byte(values[1])]
        case .rgbWithOpacity:
            return values.map(byte)
        }
    }
}
