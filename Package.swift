// swift-tools-version: 6.2
import PackageDescription

/// Every target of ours: Swift 6 mode, each unsafe expression marked, no warning left.
let ours: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    // A section per function: the linker leaves out what nobody calls, and can order the rest.
    .unsafeFlags(["-Xfrontend", "-function-sections"], .when(configuration: .release)),
]

/// Tests call the system as they like; no warning is left either.
let tests: [SwiftSetting] = [.swiftLanguageMode(.v6), .treatAllWarnings(as: .error)]

/// See runtime.c of CLinuxSystem for the wrapped functions.
let staticLinking: [LinkerSetting] = [
    .unsafeFlags([
        "-static-executable", "-use-ld=lld",
        "-Xlinker", "--wrap=swift_copyAuxiliaryExecutablePath", "-Xlinker", "--wrap=fopen",
        "-Xlinker", "--wrap=_dl_get_origin",
    ]),
    // What a call by qrexec-client-vm touches lies together (made by Benchmarks/Calls/order): a third
    // of its page faults. Other programs start the same way.
    .unsafeFlags(
        [
            "-Xlinker",
            "--symbol-ordering-file=\(Context.packageDirectory)/Sources/qrexec-client-vm/link-order",
            "-Xlinker", "--no-warn-symbol-ordering",
        ], .when(configuration: .release)),
]

/// Programs on the path of a call start in under a millisecond as static position-independent
/// executables (design: start-up and size). `make build` adds --static-swift-stdlib and
/// --disable-local-rpath, which these need.
let staticPIE =
    staticLinking + [
        .unsafeFlags([
            "-Xclang-linker", "-static-pie",
            // Relative relocations take a few pages less to read at each start.
            "-Xlinker", "--pack-dyn-relocs=relr",
        ])
    ]

/// At fixed addresses: nothing is to be relocated. For the one program that starts at each call in a
/// qube, and ends with it: 60 of 160 page faults of a start are relocations.
let staticAtFixedAddress = staticLinking

/// From their archives: no program needs Xen's libraries on the machine where it runs.
let xenLibraries: [LinkerSetting] = [
    "xengnttab", "xenevtchn", "xencall", "xentoolcore", "xentoollog",
].map { .linkedLibrary(":lib\($0).a") }

let system = Target.Dependency.product(name: "SystemPackage", package: "swift-system")

let argumentParser = Target.Dependency.product(
    name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
    name: "swift-qrexec",
    products: [
        .library(name: "Vchan", targets: ["Vchan"]),
        .library(name: "VchanTools", targets: ["VchanTools"]),
        .library(name: "QubesServices", targets: ["QubesServices"]),
        .library(name: "QrexecPolicy", targets: ["QrexecPolicy"]),
        .library(name: "QrexecDom0", targets: ["QrexecDom0"]),
        .library(name: "QrexecProtocol", targets: ["QrexecProtocol"]),
        .library(name: "QrexecRuntime", targets: ["QrexecRuntime"]),
        .library(name: "LinuxSystem", targets: ["LinuxSystem"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/LebJe/TOMLKit", from: "0.6.0"),
    ],
    // A module imports only those above it.
    targets: [
        .target(name: "CLinuxSystem"),
        .target(name: "LinuxSystem", dependencies: ["CLinuxSystem", system], swiftSettings: ours),
        // Without pkg-config, which would link the shared libraries too.
        .systemLibrary(name: "CXen", providers: [.apt(["libxen-dev"])]),
        .target(
            name: "Vchan", dependencies: ["CLinuxSystem", "CXen", "LinuxSystem", system],
            swiftSettings: ours, linkerSettings: xenLibraries),
        .target(name: "QrexecProtocol", swiftSettings: ours),
        .target(name: "QrexecPolicy", dependencies: ["LinuxSystem", system], swiftSettings: ours),
        .target(
            name: "QrexecRuntime",
            dependencies: ["LinuxSystem", "Vchan", "QrexecProtocol", system],
            swiftSettings: ours),
        .target(
            name: "QrexecClient",
            dependencies: ["LinuxSystem", "Vchan", "QrexecProtocol", "QrexecRuntime", system],
            swiftSettings: ours),
        .target(
            name: "QrexecAgent",
            dependencies: ["LinuxSystem", "Vchan", "QrexecProtocol", "QrexecRuntime", system],
            swiftSettings: ours),
        .target(
            name: "QrexecDom0",
            dependencies: [
                "LinuxSystem", "Vchan", "QrexecProtocol", "QrexecPolicy", "QrexecRuntime", system,
            ],
            swiftSettings: ours),
        .target(
            name: "QubesServices",
            dependencies: [
                "LinuxSystem", "Vchan", "QrexecProtocol", "QrexecRuntime", "QrexecClient", system,
            ],
            exclude: ["ServiceFiles"], swiftSettings: ours),
        // Tools around the transport: vchan-cat, vchan-conformance.
        .target(
            name: "VchanTools", dependencies: ["LinuxSystem", "Vchan", "QrexecRuntime", system],
            swiftSettings: ours),

        // Multi-call programs: the name one is started by picks the tool.
        .executableTarget(
            name: "qrexec-vm", dependencies: ["QrexecAgent", "QubesServices"],
            swiftSettings: ours, linkerSettings: staticPIE),
        .executableTarget(
            name: "qrexec-client-vm", dependencies: ["QrexecClient", "LinuxSystem"],
            exclude: ["link-order"], swiftSettings: ours, linkerSettings: staticAtFixedAddress),
        // Dynamically linked: PAM loads modules. By its library's own name, so that nothing but what
        // every Debian has is needed to build it; and without what Swift's libraries need, as there
        // is no Swift in it.
        .executableTarget(
            name: "qrexec-pam-session",
            linkerSettings: [
                .unsafeFlags([
                    "-use-ld=lld", "-Xlinker", "-l:libpam.so.0",
                    "-Xlinker", "--remap-inputs=*/libstdc++.*=/dev/null",
                    "-Xlinker", "--remap-inputs=*/libm.*=/dev/null",
                    "-Xlinker", "--remap-inputs=*/libswift*=/dev/null",
                    "-Xlinker", "--remap-inputs=*/swiftrt.o=/dev/null",
                ])
            ]),
        .executableTarget(
            name: "qrexec-dom0", dependencies: ["QrexecDom0", "QubesServices"],
            swiftSettings: ours, linkerSettings: staticPIE),
        .executableTarget(
            name: "vchan-tools", dependencies: ["VchanTools", "QrexecRuntime"],
            swiftSettings: ours, linkerSettings: staticPIE),
        .target(name: "AllocationCounter", path: "Benchmarks/Ring/Counter"),
        .executableTarget(
            name: "ring-bench",
            dependencies: ["AllocationCounter", "LinuxSystem", "Vchan", system],
            path: "Benchmarks/Ring/Swift", swiftSettings: ours),
        .target(
            name: "QubesLab",
            dependencies: [
                "LinuxSystem", "QrexecProtocol", "QrexecRuntime", "QrexecDom0", "SettingsText",
                argumentParser, system,
            ],
            swiftSettings: ours),
        .executableTarget(name: "qubes-lab", dependencies: ["QubesLab"], swiftSettings: ours),

        // Configuration files: values, and where a mistake is.
        .target(name: "SettingsText", dependencies: ["TOMLKit"], swiftSettings: ours),
        // The manager of qubes on a plain Xen host, with xl behind it.
        .target(
            name: "XenHost",
            dependencies: [
                "LinuxSystem", "QrexecProtocol", "QrexecPolicy", "QrexecRuntime", "QrexecDom0",
                "SettingsText", system,
            ],
            swiftSettings: ours),
        .executableTarget(
            name: "qubes-xl", dependencies: ["QrexecRuntime", "XenHost"], swiftSettings: ours),

        // The policy tools for people: ArgumentParser and Foundation are welcome here.
        .target(
            name: "PolicyTools",
            dependencies: [
                "LinuxSystem", "QrexecPolicy", "QrexecRuntime", "QrexecDom0", argumentParser,
                system,
            ],
            swiftSettings: ours),
        .executableTarget(
            name: "qubes-policy-tools", dependencies: ["PolicyTools"], swiftSettings: ours),
        .target(name: "CAllocationCount"),
        .target(
            name: "BenchmarkReport", dependencies: ["QrexecPolicy", "QrexecRuntime"],
            path: "Benchmarks/Report", swiftSettings: ours),
        .executableTarget(
            name: "policy-bench",
            dependencies: [
                "BenchmarkReport", "CAllocationCount", "LinuxSystem", "QrexecPolicy",
                "QrexecRuntime", system,
            ],
            swiftSettings: ours),
        .executableTarget(
            name: "services-bench", dependencies: ["BenchmarkReport"],
            path: "Benchmarks/Services", exclude: ["run"], swiftSettings: ours),

        // make bench-calls: the driver, and the load that it runs inside the qubes.
        .executableTarget(
            name: "calls-load",
            dependencies: ["LinuxSystem", "QrexecClient", "QrexecRuntime", system],
            path: "Benchmarks/Calls/Load", swiftSettings: ours, linkerSettings: staticPIE),
        // make bench-xen: one end of a channel between two domains.
        .executableTarget(
            name: "xen-bench", dependencies: ["LinuxSystem", "Vchan"],
            path: "Benchmarks/Xen/Swift", swiftSettings: ours, linkerSettings: staticPIE),
        .executableTarget(
            name: "calls-bench",
            dependencies: ["BenchmarkReport", "LinuxSystem", "QrexecRuntime", system],
            path: "Benchmarks/Calls/Driver", swiftSettings: ours),

        .testTarget(
            name: "VchanTests",
            dependencies: ["Vchan", "VchanTools", "LinuxSystem", "CLinuxSystem", system],
            swiftSettings: ours),
        .testTarget(
            name: "QrexecProtocolTests", dependencies: ["QrexecProtocol"], swiftSettings: tests),
        .testTarget(
            name: "QrexecRuntimeTests",
            dependencies: ["QrexecRuntime", "QrexecProtocol", "Vchan", "LinuxSystem", system],
            swiftSettings: tests),
        // The agent's and the client's programs, played against from outside.
        .testTarget(
            name: "QrexecAgentTests",
            dependencies: [
                "QrexecAgent", "QrexecRuntime", "QrexecProtocol", "Vchan", "LinuxSystem", system,
            ],
            swiftSettings: tests),
        .testTarget(
            name: "QrexecDom0Tests",
            dependencies: ["QrexecDom0", "QrexecProtocol", "QrexecRuntime", "LinuxSystem", system],
            swiftSettings: tests),
        .testTarget(
            name: "LabTests",
            dependencies: ["QubesLab", "QrexecDom0", "QrexecRuntime", "LinuxSystem", system],
            swiftSettings: ours),
        .testTarget(
            name: "XenHostTests",
            dependencies: [
                "XenHost", "qubes-xl", "QrexecDom0", "QrexecProtocol", "QrexecRuntime",
                "LinuxSystem", system,
            ],
            exclude: ["stand-in-xl", "stand-in-daemon"], swiftSettings: ours),
        .testTarget(
            name: "PolicyServiceTests",
            dependencies: ["QrexecDom0", "QrexecPolicy", "QrexecRuntime", "LinuxSystem", system],
            swiftSettings: ours),
        .testTarget(
            name: "PolicyToolsTests", dependencies: ["PolicyTools", "qubes-policy-tools"],
            swiftSettings: ours),
        .testTarget(
            name: "QrexecPolicyTests", dependencies: ["QrexecPolicy"],
            resources: [.copy("Resources/vectors.jsonl.gz")], swiftSettings: ours),
        // What a receiver of files could do that was taken over.
        .executableTarget(
            name: "receiver-probe", dependencies: ["LinuxSystem", "QubesServices"],
            path: "Tests/ReceiverProbe", swiftSettings: tests),
        .testTarget(
            name: "QubesServicesTests",
            dependencies: [
                "QubesServices", "QrexecProtocol", "QrexecRuntime", "Vchan", "LinuxSystem",
                "receiver-probe", system,
            ],
            exclude: ["Resources"], swiftSettings: tests),
        // Stands in the place of a confined daemon, for the tests.
        .executableTarget(
            name: "hostile-daemon", dependencies: ["LinuxSystem", system],
            path: "Tests/HostileDaemon", swiftSettings: tests, linkerSettings: staticPIE),
        // The built programs of dom0, driven from outside: `make build` comes first.
        .testTarget(
            name: "Dom0ProgramTests", dependencies: ["LinuxSystem", "QrexecProtocol", system],
            swiftSettings: tests),
        // A lab of the built programs: `make build` comes first.
        .testTarget(
            name: "EndToEndTests", dependencies: ["LinuxSystem", system], swiftSettings: tests),
    ]
)

// The window of the prompt needs GTK 3; everything else is built without it: `make prompt-window`.
if Context.environment["QREXEC_WINDOW"] == "1" {
    package.targets += [
        .systemLibrary(
            name: "CGTK", pkgConfig: "gtk+-3.0", providers: [.apt(["libgtk-3-dev"])]),
        .target(name: "CPromptWindow", dependencies: ["CGTK"]),
        .executableTarget(
            name: "qrexec-policy-window",
            dependencies: [
                "CPromptWindow", "LinuxSystem", "QrexecPolicy", "QrexecRuntime", system,
            ], swiftSettings: tests),
    ]
}
