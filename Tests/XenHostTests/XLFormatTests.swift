import Testing

@testable import XenHost

@Suite("What xl reads and prints")
struct XLFormatTests {
    @Test("A configuration is read like xl reads it")
    func configuration() throws {
        let text = """
            # a comment
            name = "work"   # another
            memory = 1024; vcpus=2
            disk = [ 'phy:/dev/vg/work,xvda,w',
                     # between
                     "format=raw, vdev=xvdb, access=ro, target=/srv/a b.img", ]
            vif = [ 'bridge=xenbr0' ]
            kernel='/boot/vmlinuz'
            disk += []
            """
        let configuration = try XLConfiguration(text)
        #expect(configuration["name"] == .text("work"))
        #expect(configuration["vcpus"] == .text("2"))
        #expect(configuration.strings("vif") == ["bridge=xenbr0"])
        #expect(configuration["kernel"] == .text("/boot/vmlinuz"))
        #expect(configuration.settings.first { $0.name == "vif" }?.line == 7)
        #expect(configuration.settings.filter { $0.name == "disk" }.count == 2)
    }

    static let mistakes: [(text: String, line: Int)] = [
        ("name\n", 1), ("a = 1\n= 2\n", 2), ("a = \"x\n", 1), ("a = [ 'x' 'y' ]\n", 1),
        ("a = [ 'x',\n", 2), ("a = 1 2\n", 1), ("\n\na = \n", 3),
        ("a = [[[[[[[[[[1]]]]]]]]]]", 1),
    ]

    @Test("What is no configuration is told with its line", arguments: mistakes)
    func mistake(_ mistake: (text: String, line: Int)) {
        do throws(XLConfiguration.Invalid) {
            _ = try XLConfiguration(mistake.text)
            Issue.record("accepted: \(mistake.text)")
        } catch {
            #expect(error.line == mistake.line, "\(error)")
        }
    }

    static let disks: [(text: String, target: String, writable: Bool, moved: String)] = [
        ("/dev/vg/a,raw,xvda,rw", "/dev/vg/a", true, "NEW,raw,xvda,rw"),
        ("/dev/vg/a,raw,xvda", "/dev/vg/a", true, "NEW,raw,xvda"),
        ("/dev/vg/a,,xvda", "/dev/vg/a", true, "NEW,,xvda"),
        ("/srv/a.img, raw, xvda, r", "/srv/a.img", false, "NEW, raw, xvda, r"),
        ("phy:/dev/vg/a,xvda,w", "/dev/vg/a", true, "phy:NEW,xvda,w"),
        ("phy:/dev/vg/a,xvda1,r", "/dev/vg/a", false, "phy:NEW,xvda1,r"),
        ("tap:aio:/srv/a.img,hda,w", "/srv/a.img", true, "tap:aio:NEW,hda,w"),
        ("file:/srv/a.iso,hdc:cdrom,r", "/srv/a.iso", false, "file:NEW,hdc:cdrom,r"),
        (
            "format=raw, vdev=xvda, access=rw, target=/srv/a,b.img", "/srv/a,b.img", true,
            "format=raw, vdev=xvda, access=rw, target=NEW"
        ),
        (
            "vdev=xvda,access=ro,target=/srv/a.img", "/srv/a.img", false,
            "vdev=xvda,access=ro,target=NEW"
        ),
        (
            "format=qcow2,vdev=xvda,backendtype=qdisk,target=/a", "/a", true,
            "format=qcow2,vdev=xvda,backendtype=qdisk,target=NEW"
        ),
    ]

    @Test("A disk's target is found and can be replaced", arguments: disks)
    func disk(_ disk: (text: String, target: String, writable: Bool, moved: String)) throws {
        let specification = try DiskSpecification(disk.text)
        #expect(specification.target == disk.target)
        #expect(specification.isWritable == disk.writable)
        #expect(specification.with(target: "NEW") == disk.moved)
    }

    @Test("An empty drive stays empty; a disk that a script makes cannot be copied")
    func specialDisks() throws {
        let drive = try DiskSpecification("devtype=cdrom,vdev=hdc")
        #expect(drive.target.isEmpty)
        #expect(!drive.isWritable)
        #expect(drive.with(target: "") == "devtype=cdrom,vdev=hdc")
        #expect(throws: DiskSpecification.Problem.script) {
            try DiskSpecification("vdev=xvda,script=block-iscsi,target=iqn.x")
        }
    }

    @Test("A list of domains is read from the right: names may be anything")
    func list() throws {
        let uuid = "c0ffee00-0000-4000-8000-000000000001"
        let output = """
            Name                     ID   Mem VCPUs\tState\tTime(s)   UUID    Reason-Code\tSecurity Label
            Domain-0                  0  2048     2     r-----      51.3 00000000-0000-0000-0000-000000000000        -                -
            work                      3   400     1     -b----       3.5 \(uuid)        -                -
            two words                 4   400     1     --p---       0.0 \(uuid)        -                -
            (null)                    5     0     1     --psrd       9.9 \(uuid)        0                -
            off                       6   400     1     ---s--      12.0 \(uuid)        0                -
            """
        let list = try DomainList(output)
        #expect(list.entries.map(\.id) == [0, 3, 4, 5, 6])
        #expect(list["work"]?.uuid == uuid)
        #expect(list["two words"]?.isPaused == true)
        #expect(list["(null)"] == nil)
        #expect(list["off"]?.hasShutDown == true)
        #expect(list["work"]?.hasShutDown == false)
    }

    @Test(
        "What is no list is refused",
        arguments: ["", "libxl: error\n", "Name ID\nwork x 400 1 r----- 3.5\n", "Name\nx\n"])
    func noList(_ output: String) {
        #expect(throws: DomainList.Invalid.self) { try DomainList(output) }
    }

    @Test("Text that xl cannot read back is not written")
    func quoting() {
        #expect(XLConfiguration.quoted("a'b") == "\"a'b\"")
        #expect(XLConfiguration.quoted("a\"b") == "'a\"b'")
        #expect(XLConfiguration.quoted("a\"'b") == nil)
        #expect(XLConfiguration.quoted("a\nb") == nil)
    }
}
