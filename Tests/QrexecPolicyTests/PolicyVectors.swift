import Foundation
import QrexecPolicy
import Testing

/// One set of the policy vectors: qubes, files, requests and the reference's answers.
struct PolicyVector: Sendable, CustomTestStringConvertible {
    let number: Int
    let json: JSONValue

    var testDescription: String { "set \(number)" }

    var system: SystemInformation {
        get throws { try SystemInformation.read(json["system_info"]!) }
    }

    static let directory = "/etc/qubes/policy.d"

    /// The files of the set as the policy directory holds them.
    var files: MemoryPolicyFiles {
        var files: [String: [UInt8]] = [:]
        if case .object(let members)? = json["files"] {
            for (name, text) in members {
                files[Self.directory + "/" + name] = Array((text.string ?? "").utf8)
            }
        }
        return MemoryPolicyFiles(files, directories: [Self.directory])
    }

    func load() -> PolicyLoadResult {
        Policy.load(PolicyDirectories([Self.directory]), files: files)
    }

    static let all: [PolicyVector] = {
        let gunzip = Process()
        gunzip.executableURL = URL(fileURLWithPath: "/bin/gunzip")
        let path = Bundle.module.path(forResource: "vectors.jsonl", ofType: "gz", inDirectory: nil)
        gunzip.arguments = ["-c", path!]
        let output = Pipe()
        gunzip.standardOutput = output
        try! gunzip.run()
        let bytes = [UInt8](output.fileHandleForReading.readDataToEndOfFile())
        gunzip.waitUntilExit()
        return bytes.split(separator: UInt8(ascii: "\n")).enumerated().map { number, line in
            PolicyVector(number: number, json: try! JSONReader.read(Array(line)))
        }
    }()
}

/// An answer of section 12.7 as a map.
func answerMap(_ bytes: [UInt8]) -> [String: String] {
    var map: [String: String] = [:]
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
        let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        map[String(parts[0])] = String(parts[1])
    }
    return map
}
