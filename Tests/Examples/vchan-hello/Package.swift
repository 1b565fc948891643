// swift-tools-version: 6.2
import PackageDescription

/// A package of somebody else that uses the transport alone: `swift run` in this directory.
let package = Package(
    name: "vchan-hello",
    dependencies: [.package(name: "swift-qrexec", path: "../../..")],
    targets: [
        .executableTarget(
            name: "vchan-hello",
            dependencies: [.product(name: "Vchan", package: "swift-qrexec")])
    ])
