import LinuxSystem

/// An open file or directory that several values may refer to; closed when the last one goes.
final class SharedDescriptor {
    let descriptor: Descriptor

    init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
}
