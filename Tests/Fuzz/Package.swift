// swift-tools-version: 6.2
import PackageDescription

/// Fuzzers of what reads bytes of other qubes; `make fuzz` builds and runs them. A package of its
/// own, because every module must be built for the fuzzer to see which way the bytes took.
let package = Package(
    name: "Fuzz",
    dependencies: [.package(name: "swift-qrexec", path: "../..")],
    targets: [
        .executableTarget(
            name: "fuzz-daemon",
            dependencies: [.product(name: "QrexecProtocol", package: "swift-qrexec")],
            swiftSettings: [.unsafeFlags(["-parse-as-library"])]),
        .executableTarget(
            name: "fuzz-dispatch",
            dependencies: [.product(name: "QrexecDom0", package: "swift-qrexec")],
            swiftSettings: [.unsafeFlags(["-parse-as-library"])]),
        .executableTarget(
            name: "fuzz-filecopy",
            dependencies: [.product(name: "QubesServices", package: "swift-qrexec")],
            swiftSettings: [.unsafeFlags(["-parse-as-library"])]),
        .executableTarget(
            name: "fuzz-policy",
            dependencies: [.product(name: "QrexecPolicy", package: "swift-qrexec")],
            swiftSettings: [.unsafeFlags(["-parse-as-library"])]),
        .executableTarget(
            name: "fuzz-policy-json",
            dependencies: [.product(name: "QrexecPolicy", package: "swift-qrexec")],
            swiftSettings: [.unsafeFlags(["-parse-as-library"])]),
        .executableTarget(
            name: "fuzz-policy-request",
            dependencies: [
                .product(name: "QrexecPolicy", package: "swift-qrexec"),
                .product(name: "QrexecDom0", package: "swift-qrexec"),
                .product(name: "QrexecProtocol", package: "swift-qrexec"),
            ],
            swiftSettings: [.unsafeFlags(["-parse-as-library"])]),
        .executableTarget(
            name: "fuzz-messages",
            dependencies: [.product(name: "QrexecProtocol", package: "swift-qrexec")],
            swiftSettings: [.unsafeFlags(["-parse-as-library"])]),
        .executableTarget(
            name: "fuzz-data-session",
            dependencies: [
                .product(name: "LinuxSystem", package: "swift-qrexec"),
                .product(name: "QrexecProtocol", package: "swift-qrexec"),
                .product(name: "QrexecRuntime", package: "swift-qrexec"),
                .product(name: "Vchan", package: "swift-qrexec"),
            ],
            swiftSettings: [.unsafeFlags(["-parse-as-library"])]),
        .executableTarget(
            name: "fuzz-vchan",
            dependencies: [.product(name: "VchanTools", package: "swift-qrexec")],
            swiftSettings: [.unsafeFlags(["-parse-as-library"])]),
    ]
)
