/// A request of the daemon's qube that was accepted: decided and carried out by the daemon itself
/// (`RequestedCall`) or by the dispatcher (`DispatchedRequest`).
protocol PendingRequest: AnyObject {
    /// The call's end is waited for: a disposable was made for it.
    var usesDisposable: Bool { get }
    /// Gives up silently: the qube is gone, or somebody else has answered.
    func abandon()
    /// The caller has ended its side of a call that was connected.
    func callerEnded()
}
