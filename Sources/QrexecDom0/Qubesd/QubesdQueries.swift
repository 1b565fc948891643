import QrexecProtocol

/// The methods of section 14 that only look.
enum QubesdQueries {
    static func answer(
        _ request: QubesdRequest, _ server: QubesdServer
    ) throws(QubesdError) -> String {
        switch request.method {
        case "internal.GetSystemInfo":
            return SystemInfoWriter.json(server.manager.qubes)
        case "admin.vm.List":
            return try list(request, server)
        case "admin.vm.CurrentState":
            return "power_state=\(try server.qube(request.destination).powerState.rawValue)"
        case "admin.vm.tag.List":
            return try server.qube(request.destination).tags.sorted().map { $0 + "\n" }.joined()
        case "admin.vm.tag.Get":
            let tags = try server.qube(request.destination).tags
            return tags.contains(request.argument) ? "1" : "0"
        case "admin.vm.feature.List":
            let features = try server.qube(request.destination).features
            return features.keys.sorted().map { $0 + "\n" }.joined()
        case "admin.vm.feature.Get":
            guard let value = try server.qube(request.destination).features[request.argument] else {
                throw QubesdError(
                    type: "QubesFeatureNotFoundError",
                    message:
                        "Feature not set for domain \(request.destination): \(request.argument)")
            }
            return value
        case "admin.vm.property.Get":
            return try property(request, server)
        default:
            throw QubesdError(
                type: "QubesNoSuchMethodError", message: "No such method: \(request.method)")
        }
    }

    private static func list(
        _ request: QubesdRequest, _ server: QubesdServer
    ) throws(QubesdError) -> String {
        let only = try server.qube(request.destination)
        let qubes = only.type == .admin ? server.manager.qubes : [only]
        return qubes.map {
            "\($0.name) class=\($0.type.rawValue) state=\($0.powerState.rawValue) uuid=\($0.uuid)\n"
        }.joined()
    }

    private static func property(
        _ request: QubesdRequest, _ server: QubesdServer
    ) throws(QubesdError) -> String {
        let qube = try server.qube(request.destination)
        switch request.argument {
        case "name": return value("str", qube.name)
        case "uuid": return value("str", qube.uuid)
        case "klass": return value("str", qube.type.rawValue)
        case "label": return value("label", qube.label)
        case "icon": return value("str", qube.icon)
        case "default_user": return value("str", qube.defaultUser)
        case "default_dispvm": return value("vm", qube.defaultDisposable ?? "")
        case "guivm": return value("vm", qube.guiQube ?? "")
        case "template_for_dispvms":
            return value("bool", qube.isTemplateForDisposables ? "True" : "False")
        case "xid": return value("int", String(qube.domainID.map(Int.init) ?? -1))
        default:
            throw QubesdError(
                type: "QubesNoSuchPropertyError",
                message: "Invalid property '\(request.argument)' of \(qube.name)")
        }
    }

    private static func value(_ type: String, _ text: String) -> String {
        "default=False type=\(type) \(text)"
    }
}
