import LinuxSystem

/// A descriptor that is handed from one step of a call to the next; closed when nobody takes it.
final class HeldDescriptor {
    private var descriptor: Descriptor?

    init(_ descriptor: consuming Descriptor) { self.descriptor = consume descriptor }

    /// nil when it was taken.
    var number: Int32? { descriptor?.number }

    func take() -> Descriptor? { descriptor.take() }
}
