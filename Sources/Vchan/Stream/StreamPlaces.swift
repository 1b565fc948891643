import LinuxSystem

/// Where domains meet over byte-stream sockets (protocol 4): one directory, and a number that this
/// process claims. For tests and for programs of the reference implementation; nothing is proved.
struct StreamPlaces: Sendable {
    let directory: String
    let own: DomainID

    /// From `VCHAN_SOCKET_DIR` and `VCHAN_DOMAIN`, as far as it is not given.
    static func fromEnvironment(
        directory: String?, own: DomainID?
    ) throws(VchanError) -> StreamPlaces {
        let directory =
            directory ?? CurrentProcess.variable("VCHAN_SOCKET_DIR") ?? "/var/run/vchan"
        if let own { return StreamPlaces(directory: directory, own: own) }
        let text = CurrentProcess.variable("VCHAN_DOMAIN") ?? "0"
        guard let number = parseDecimal(text[...], maximum: .max), let own = DomainID(number) else {
            throw .noIdentity(
                path: "VCHAN_DOMAIN", reason: "'\(text)' is no number of 0 to 32751")
        }
        return StreamPlaces(directory: directory, own: own)
    }

    func path(server: DomainID, client: DomainID, port: Port) -> String {
        "\(directory)/vchan.\(server).\(client).\(port).sock"
    }
}
