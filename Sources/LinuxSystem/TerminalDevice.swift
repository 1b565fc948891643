import CLinuxSystem
import Glibc
public import SystemPackage

/// Terminals: making pairs, raw mode, sizes.
public enum TerminalDevice {
    public struct Size: Sendable, Equatable {
        public var rows: UInt16
        public var columns: UInt16

        public init(rows: UInt16, columns: UInt16) {
            self.rows = rows
            self.columns = columns
        }
    }

    /// A new terminal: the side of the program that shows it, then the side of the programs in it.
    ///
    /// - Parameter owner: whose it is, when this process is root.
    public static func makePair(owner: UInt32) throws(Errno) -> DescriptorPair {
        var master: Int32 = -1
        var slave: Int32 = -1
        _ = try check(unsafe cs_open_terminal(&master, &slave, owner))
        return DescriptorPair(first: Descriptor(taking: master), second: Descriptor(taking: slave))
    }

    /// Whether a descriptor is a terminal.
    public static func isTerminal(_ number: Int32) -> Bool { isatty(number) == 1 }

    /// Passes every byte on as it is, until `restore`; for one terminal a process.
    public static func enterRawMode(_ number: Int32) throws(Errno) {
        _ = try check(cs_terminal_raw(number))
    }

    /// Ends raw mode; harmless without.
    public static func restore() { cs_terminal_restore() }

    public static func size(_ number: Int32) throws(Errno) -> Size {
        var size = Size(rows: 0, columns: 0)
        _ = try check(unsafe cs_window_size(number, &size.rows, &size.columns))
        return size
    }

    public static func setSize(_ number: Int32, _ size: Size) throws(Errno) {
        _ = try check(cs_set_window_size(number, size.rows, size.columns))
    }
}
