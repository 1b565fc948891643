import Vchan

// Two domains of one machine that meet in a directory: start it with --server, and without.
// In a qube, `try Transport.selected()` is the transport of that machine instead.
let server = DomainID(1)!
let client = DomainID(2)!
let port = Port(512)!
let directory = "/tmp/vchan-hello"

if CommandLine.arguments.contains("--server") {
    let transport = Transport.local(state: directory, ownDomain: server)
    let ring = RingSize(atLeast: 65536)!
    var channel = try transport.listen(for: client, port: port, read: ring, write: ring)
    try channel.waitUntilOpen()
    // Until the client has closed, and all that it wrote was read.
    while try channel.waitForData() > 0 {
        var bytes: [UInt8] = []
        _ = try channel.receive(into: &bytes, count: 4096)
        print(String(decoding: bytes, as: UTF8.self))
    }
    channel.close()
} else {
    let transport = Transport.local(state: directory, ownDomain: client)
    var channel = try transport.connect(to: server, port: port)
    try channel.waitUntilOpen(deadline: Channel.deadline(after: .seconds(60)))
    let greeting = Array("hello".utf8)
    var sent = 0
    while sent < greeting.count {
        _ = try channel.waitForSpace()
        sent += try channel.write(greeting.span.extracting(last: greeting.count - sent))
    }
    channel.close()
}
