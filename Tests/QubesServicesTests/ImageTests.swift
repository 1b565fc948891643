import Foundation
import Testing

@testable import QubesServices

@Suite struct ImageTests {
    /// Made by another program: 2 × 2 with opacity, 4 × 1 of a palette with two bits a pixel, 2 × 1
    /// grey of 16 bits with a transparent value, 9 × 1 black and white.
    private static let pictures = [
        "rgba":
            "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAYAAABytg0kAAAAFklEQVR42mP4z8DwHwgbGEA0Jwc7GwA2MQSb2DCXWgAAAABJRU5ErkJggg==",
        "palette":
            "iVBORw0KGgoAAAANSUhEUgAAAAQAAAABAgMAAACEUudeAAAADFBMVEUBAgMEBQYHCAkKCwzcYzesAAAAAnRSTlMAY6Io/doAAAAKSURBVHjaY5AGAAAdABwjfI+sAAAAAElFTkSuQmCC",
        "grey16":
            "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABEAAAAACB2fwVAAAAAnRSTlMSNC/TSV4AAAANSURBVHjaYxAy+f8fAAPmAkXxHIRlAAAAAElFTkSuQmCC",
        "grey1":
            "iVBORw0KGgoAAAANSUhEUgAAAAkAAAABAQAAAAAkubnQAAAAC0lEQVR42mNY1QAAAdcBK//wZ1UAAAAASUVORK5CYII=",
    ]

    private static func picture(_ name: String) -> [UInt8] {
        Array(Data(base64Encoded: pictures[name]!)!)
    }

    @Test func readsEveryKindOfPNG() throws {
        let rgba = try PNGReader.read(Self.picture("rgba"))
        #expect(rgba.width == 2 && rgba.height == 2)
        #expect(
            rgba.pixels == [255, 0, 0, 255, 0, 255, 0, 128, 0, 0, 255, 0, 9, 8, 7, 6])
        #expect(
            try PNGReader.read(Self.picture("palette")).pixels
                == [1, 2, 3, 0, 4, 5, 6, 99, 7, 8, 9, 255, 10, 11, 12, 255])
        #expect(
            try PNGReader.read(Self.picture("grey16")).pixels
                == [0x12, 0x12, 0x12, 0, 255, 255, 255, 255])
        let grey = try PNGReader.read(Self.picture("grey1"))
        #expect(grey.width == 9)
        #expect(
            grey.pixels.enumerated().allSatisfy { index, value in
                index % 4 == 3 || index / 4 % 2 == 1
                    ? value == (index % 4 == 3 ? 255 : 0) : value == 255
            })
    }

    /// Whatever a program has left of a picture: an error or a picture, never a crash.
    @Test(arguments: pictures.keys.sorted())
    func survivesDamage(name: String) {
        let picture = Self.picture(name)
        for length in 0..<picture.count {
            #expect(throws: Image.Invalid.self) {
                try PNGReader.read(Array(picture[..<max(length, 8)].dropLast(length < 8 ? 1 : 0)))
            }
        }
        for index in 8..<picture.count {
            for bit in 0..<8 {
                var damaged = picture
                damaged[index] ^= 1 << bit
                if let image = try? PNGReader.read(damaged) {
                    #expect(image.pixels.count == image.width * image.height * 4)
                }
            }
        }
    }

    @Test func promisesNoMoreThanItCanHold() {
        // A header that says 2^31 - 1 pixels each way.
        var huge = Self.picture("rgba")
        huge.replaceSubrange(16..<24, with: [0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF])
        #expect(throws: Image.Invalid.self) { try PNGReader.read(huge) }
        #expect(throws: Image.Invalid.self) {
            try NetpbmReader.read(Array("P6 99999999 99999999 255\n".utf8))
        }
        #expect(throws: Image.Invalid.self) { try NetpbmReader.read(Array("P6 9999 9 255\n".utf8)) }
    }

    @Test func readsNetpbm() throws {
        let image = try NetpbmReader.read(
            Array("P6\n# a comment\n2 1\n255\n".utf8) + [1, 2, 3, 4, 5, 6])
        #expect(image == Image(width: 2, height: 1, pixels: [1, 2, 3, 255, 4, 5, 6, 255]))
        let grey = try NetpbmReader.read(Array("P5 1 1 15 ".utf8) + [15])
        #expect(grey.pixels == [255, 255, 255, 255])
        for text in [
            "P6", "P6 1", "P6 0 1 255\n", "P6 1 1 256\nabc", "P6 1 1 0\nabc", "P6 x 1 1\n",
        ] {
            #expect(throws: Image.Invalid.self) { try NetpbmReader.read(Array(text.utf8)) }
        }
    }

    @Test func makesIconsSmaller() {
        let image = Image(
            width: 4, height: 2, pixels: (0..<8).flatMap { [UInt8($0), 0, 0, 255] })
        #expect(image.reduced(to: 4) == image)
        let reduced = image.reduced(to: 2)
        #expect(reduced == Image(width: 2, height: 1, pixels: [0, 0, 0, 255, 2, 0, 0, 255]))
    }

    @Test func findsTheLargestIcon() throws {
        let directory = try TemporaryDirectory()
        for path in ["48x48/apps/a.png", "256x256/apps/a.png", "scalable/apps/a.svg"] {
            try directory.write("icons/hicolor/" + path, "")
        }
        try directory.write("pixmaps/b.xpm", "")
        func find(_ name: String) -> String? {
            Icons.find(name, in: [directory.path])?.replacing(directory.path + "/", with: "")
        }
        #expect(find("a") == "icons/hicolor/256x256/apps/a.png")
        #expect(find("b") == "pixmaps/b.xpm")
        for name in ["", "none", "../a", "/etc/passwd", ".a", "a/b", "a\u{0}"] {
            #expect(find(name) == nil)
        }
    }

    @Test(
        arguments: [
            ([0xFF, 0xD8, 0xFF, 0xE0], "jpeg"), (Array("GIF89a".utf8), "gif"),
            (Array("RIFF1234WEBP".utf8), "webp"), (Array("<svg ".utf8), "svg"),
            (Array("\u{FEFF}\n<!-- made by hand -->\n<svg ".utf8), "svg"),
            (Array("<!DOCTYPE svg PUBLIC".utf8), "svg"), (Array("<html><svg ".utf8), nil),
            (Array("push graphic-context".utf8), nil), (Array("RIFF1234WAVE".utf8), nil), ([], nil),
        ] as [([UInt8], String?)])
    func letsNoProgramGuess(data: [UInt8], format: String?) {
        #expect(ImageConverter.format(of: data) == format)
    }
}
