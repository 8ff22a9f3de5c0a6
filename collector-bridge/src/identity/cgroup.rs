//! What the path of a cgroup tells of the process in it: its container, its pod, its systemd unit. Conventions of those who make
//! cgroups, not of the kernel; nothing is asked of any of them.

use std::str;

/// Whose cgroup it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// `container.id`: 64 hex digits.
    pub container_id: Option<String>,
    /// `k8s.pod.uid`
    pub pod_uid: Option<String>,
    /// Name of the systemd service, without `.service` and without a template's instance.
    pub service: Option<String>,
}

/// Reads `/proc/PID/cgroup`: lines of `HIERARCHY:CONTROLLERS:PATH`, one for cgroup v2 (`0::PATH`) and one for each hierarchy of v1.
#[must_use]
pub fn placement(text: &[u8]) -> Placement {
    let hierarchies: Vec<Hierarchy<'_>> =
        text.split(|&byte| byte == b'\n').filter_map(Hierarchy::of_line).collect();
    let container_id = hierarchies.iter().find_map(|hierarchy| container(hierarchy.path));
    let pod_uid = hierarchies.iter().find_map(|hierarchy| pod(hierarchy.path));
    let service = match container_id {
        // Whatever is named there is named by the container's own systemd, if by any.
        Some(_) => None,
        None => hierarchies.iter().filter(|known| known.is_systemds).find_map(|known| service(known.path)),
    };
    Placement { container_id, pod_uid, service }
}

/// The path of cgroup v2, if it alone tells everything that [`placement`] does: then it tells the same of everybody in that cgroup.
#[must_use]
pub fn telling_path(text: &[u8]) -> Option<&str> {
    let lines = || text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let path = str::from_utf8(lines().find_map(|line| line.strip_prefix(b"0::"))?).ok()?;
    let by_itself = placement([b"0::", path.as_bytes()].concat().as_slice());
    let is_alone = lines().count() == 1;
    (by_itself == placement(text) && (is_alone || by_itself.container_id.is_some())).then_some(path)
}

struct Hierarchy<'a> {
    path: &'a str,
    /// systemd names the groups of this one.
    is_systemds: bool,
}

impl<'a> Hierarchy<'a> {
    fn of_line(line: &'a [u8]) -> Option<Self> {
        let mut fields = str::from_utf8(line).ok()?.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_v2 = number == "0" && controllers.is_empty();
        Some(Self { path, is_systemds: is_v2 || controllers == "name=systemd" })
    }
}

/// The innermost container: engines nest, and the process is in the last one.
fn container(path: &str) -> Option<String> {
    path.rsplit('/').find_map(container_of_segment)
}

/// A container's group is named by its id: bare under Docker's, the kubelet's and Amazon ECS's cgroupfs; with the engine before it
/// and `.scope` behind it under systemd (`docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`); and
/// behind a colon by a containerd whose cgroups systemd makes although it was not told so (`…slice:cri-containerd:ID`).
fn container_of_segment(segment: &str) -> Option<String> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (engine, id) = match name.rfind([':', '-']) {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => ("", name),
    };
    // The monitor beside a container (`crio-conmon-ID`, `libpod-conmon-ID`) is not in it.
    let is_monitor = engine.ends_with("conmon");
    (is_hex(id, 64) && !is_monitor).then(|| id.to_owned())
}

/// `podUID`, or `kubepods-besteffort-podUID.slice` with underscores in the place of dashes. A static pod's is a hash of its
/// manifest, by which the API server does not know it.
fn pod(path: &str) -> Option<String> {
    path.rsplit(['/', ':']).find_map(|segment| {
        let name = segment.strip_suffix(".slice").unwrap_or(segment);
        let (before, uid) = name.rsplit_once("pod")?;
        let is_kubelets = before.is_empty() || (before.contains("kubepods") && before.ends_with('-'));
        let uid = uid.replace('_', "-");
        (is_kubelets && is_uuid(&uid)).then_some(uid)
    })
}

/// The unit, if it is a service: what is in a scope, or in a slice below a service, was started by a person or by a program. Below
/// anything else another systemd may name things, that of a container without an id.
fn service(path: &str) -> Option<String> {
    let mut segments = path.split('/').filter(|segment| !["", ".."].contains(segment));
    let mut innermost = None;
    for segment in segments.by_ref() {
        match segment.rsplit_once('.') {
            Some((_, "slice")) => innermost = None,
            Some((name, "service")) => innermost = Some(name),
            Some((_, "scope")) => return None,
            _ => break,
        }
    }
    let is_unit = |segment: &str| {
        segment.rsplit_once('.').is_some_and(|(_, kind)| ["slice", "service", "scope"].contains(&kind))
    };
    let name = innermost.filter(|_| !segments.any(is_unit))?;
    let name = name.split_once('@').map_or(name, |(template, _)| template);
    (!name.is_empty()).then(|| name.to_owned())
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_uuid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == lengths.len() && parts.iter().zip(lengths).all(|(part, length)| is_hex(part, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0f5a3c1e7b9d2468ace013579bdf02468ace13579bdf02468ace13579bdf0246";
    const POD: &str = "7d6c5b4a-1f2e-4d3c-8b7a-0123456789ab";

    /// The layouts of /proc/PID/cgroup in tests/fixtures/cgroups, each with what it is to tell.
    fn read(layout: &str) -> Placement {
        let path = format!("{}/tests/fixtures/cgroups/{layout}", env!("CARGO_MANIFEST_DIR"));
        placement(&std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    #[test]
    fn each_engines_layout_tells_the_container_and_the_pod() {
        for (layout, pod) in [
            ("docker-v1-cgroupfs", None),
            ("docker-v1-systemd", None),
            ("docker-v2-cgroupfs", None),
            ("docker-v2-systemd", None),
            ("docker-in-docker", None),
            ("docker-seen-from-a-container", None),
            ("docker-with-systemd-inside", None),
            ("containerd-v1-cgroupfs", Some(POD)),
            ("containerd-v2-systemd", Some(POD)),
            ("containerd-v2-guaranteed", Some(POD)),
            ("containerd-without-systemd-driver", Some(POD)),
            ("containerd-static-pod", None),
            ("crio-v1-systemd", Some(POD)),
            ("crio-v2-systemd", Some(POD)),
            ("crio-with-systemd-inside", Some(POD)),
            ("kind-nested-kubelet", Some(POD)),
            ("podman-v1-cgroupfs", None),
            ("podman-v2-rootful", None),
            ("podman-v2-rootless", None),
            ("podman-quadlet-split", None),
            ("nerdctl-v2-systemd", None),
            ("ecs-v1", None),
        ] {
            let expected = Placement {
                container_id: Some(ID.to_owned()),
                pod_uid: pod.map(str::to_owned),
                service: None,
            };
            assert_eq!(read(layout), expected, "{layout}");
        }
    }

    #[test]
    fn a_service_is_told_by_its_unit_and_nothing_else_is() {
        for (layout, service) in [
            ("systemd-service", Some("nginx")),
            ("systemd-service-v1", Some("nginx")),
            ("systemd-template", Some("getty")),
            ("systemd-delegated", Some("postgresql")),
            ("systemd-user-service", Some("pipewire")),
            ("systemd-session", None),
            ("systemd-user-group", None),
            ("lxc", None),
            ("nspawn-machine", None),
            ("nspawn-service", None),
            ("systemd-user-scope", None),
            ("systemd-slice", None),
            ("init", None),
            ("crio-conmon", None),
            ("podman-conmon", None),
        ] {
            let expected = Placement { service: service.map(str::to_owned), ..Placement::default() };
            assert_eq!(read(layout), expected, "{layout}");
        }
    }

    #[test]
    fn what_version_2_alone_tells_is_told_of_all_in_the_cgroup() {
        let telling = |text: &str| telling_path(text.as_bytes()).map(str::to_owned);
        let container = format!("/docker/{ID}");
        assert_eq!(telling("0::/a.service\n"), Some("/a.service".to_owned()));
        assert_eq!(telling(&format!("1:name=systemd:/\n0::{container}\n")), Some(container.clone()));
        assert_eq!(telling(&format!("1:name=systemd:{container}\n0::/\n")), None);
        assert_eq!(telling(&format!("1:name=systemd:{container}\n")), None);
        let inner = format!("/docker/{}/docker/{ID}", "f".repeat(64));
        assert_eq!(telling(&format!("1:name=systemd:{inner}\n0::/docker/{}\n", "f".repeat(64))), None);
    }

    #[test]
    fn whatever_it_is_it_is_read() {
        for text in [
            "",
            "\n",
            "0",
            "0::",
            "0::/",
            "::\n::",
            "0::/.service",
            "0::/@.service",
            "0::/-.scope",
            "x:y:/pod",
        ] {
            assert_eq!(placement(text.as_bytes()), Placement::default(), "{text:?}");
        }
        assert_eq!(placement(b"0::/\xff\xfe.service"), Placement::default());
        // One digit less, one more, upper case.
        for id in [&ID[1..], &format!("{ID}0"), &ID.to_uppercase()] {
            assert_eq!(placement(format!("0::/docker/{id}").as_bytes()), Placement::default(), "{id}");
        }
    }
}
