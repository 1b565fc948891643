import QrexecDom0
import QrexecProtocol

extension Lab {
    /// Features of a qube and bytes of a value at most: qubes ask for some of their own.
    private static var maximumFeatures: Int { 5000 }
    private static var maximumValue: Int { 4096 }

    /// Sets a feature of a qube until the lab ends: what the configuration says is not changed.
    func setFeature(
        _ key: String, to value: String, of name: String
    ) throws(QubesdError) {
        guard let qube = self[name] else { throw .noSuchQube(name) }
        let isNew = qube.settings.features[key] == nil
        guard !key.isEmpty, value.utf8.count <= Self.maximumValue,
            !isNew || qube.settings.features.count < Self.maximumFeatures
        else {
            throw QubesdError(
                type: "QubesValueError", message: "\(name) cannot have the feature \(key)")
        }
        qube.settings.features[key] = value
        onEvent?(
            QubeEvent(
                subject: name, name: "domain-feature-set:\(key)",
                details: [("feature", key), ("value", value)]))
        disposables.featureChanged(key)
    }
}
