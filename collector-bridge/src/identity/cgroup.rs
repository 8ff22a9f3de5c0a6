//! Derives the container, the pod and the systemd service of a process from the path of its cgroup.
//!
//! The paths follow conventions of container engines, the kubelet and systemd. No API of theirs is called.

use std::str;

/// Where a process runs, as far as the path of its cgroup shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Placement {
    /// `container.id`: 64 hex digits.
    pub(super) container_id: Option<String>,
    /// `k8s.pod.uid`
    pub(super) pod_uid: Option<String>,
    /// Name of the systemd service, without `.service` and without the instance of a template.
    pub(super) service: Option<String>,
}

/// Parses `/proc/PID/cgroup`: lines of `HIERARCHY:CONTROLLERS:PATH`, one for cgroup v2 (`0::PATH`) and one
/// for each v1 hierarchy.
#[must_use]
pub(super) fn parse_placement(text: &[u8]) -> Placement {
    let hierarchies: Vec<Hierarchy<'_>> =
        text.split(|&byte| byte == b'\n').filter_map(Hierarchy::parse_line).collect();
    let container_id = hierarchies.iter().find_map(|hierarchy| container(hierarchy.path));
    let pod_uid = hierarchies.iter().find_map(|hierarchy| pod(hierarchy.path));
    let service = match container_id {
        // A unit in that path would be one of a systemd inside the container.
        Some(_) => None,
        None => hierarchies.iter().filter(|known| known.is_systemd).find_map(|known| service(known.path)),
    };
    Placement { container_id, pod_uid, service }
}

/// The cgroup v2 path, if that path alone gives the same result as [`parse_placement`]. Then every process in
/// the cgroup has the same placement, and the placement can be cached by the cgroup's id.
#[must_use]
pub(super) fn conclusive_v2_path(text: &[u8]) -> Option<&str> {
    let lines = || text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let path = str::from_utf8(lines().find_map(|line| line.strip_prefix(b"0::"))?).ok()?;
    let alone = parse_placement([b"0::", path.as_bytes()].concat().as_slice());
    let is_only_line = lines().count() == 1;
    (alone == parse_placement(text) && (is_only_line || alone.container_id.is_some())).then_some(path)
}

/// One line of `/proc/PID/cgroup`.
struct Hierarchy<'a> {
    path: &'a str,
    /// Whether systemd names the cgroups of this hierarchy: that of v2, or its own named one of v1.
    is_systemd: bool,
}

impl<'a> Hierarchy<'a> {
    fn parse_line(line: &'a [u8]) -> Option<Self> {
        let mut fields = str::from_utf8(line).ok()?.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_v2 = number == "0" && controllers.is_empty();
        Some(Self { path, is_systemd: is_v2 || controllers == "name=systemd" })
    }
}

/// The id of the innermost container; engines can be nested.
fn container(path: &str) -> Option<String> {
    path.rsplit('/').find_map(container_in_segment)
}

/// The container's id in one segment of a path. The forms are:
/// - `ID`: cgroupfs driver of Docker, the kubelet and Amazon ECS;
/// - `ENGINE-ID.scope`: systemd driver (`docker-`, `cri-containerd-`, `crio-`, `libpod-`);
/// - `…slice:cri-containerd:ID`: containerd without the systemd driver on a host where systemd makes the
///   cgroups.
fn container_in_segment(segment: &str) -> Option<String> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (engine, id) = match name.rfind([':', '-']) {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => ("", name),
    };
    // The monitor process (`crio-conmon-ID`, `libpod-conmon-ID`) runs beside the container, not in it.
    let is_monitor = engine.ends_with("conmon");
    (is_hex(id, 64) && !is_monitor).then(|| id.to_owned())
}

/// The pod's UID in a path: `podUID`, or `kubepods-besteffort-podUID.slice` with underscores instead of
/// dashes. A static pod has a hash of its manifest instead, which is no UID of the API server and is ignored.
fn pod(path: &str) -> Option<String> {
    path.rsplit(['/', ':']).find_map(|segment| {
        let name = segment.strip_suffix(".slice").unwrap_or(segment);
        let (before, uid) = name.rsplit_once("pod")?;
        let is_kubelet = before.is_empty() || (before.contains("kubepods") && before.ends_with('-'));
        let uid = uid.replace('_', "-");
        (is_kubelet && is_uuid(&uid)).then_some(uid)
    })
}

/// The systemd service in a path. A process in a scope, or in a slice below a service, was not started as a
/// service. Units below a cgroup that is no unit belong to another systemd, such as one in a container
/// without an id.
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

    /// Parses one of the recorded files /proc/PID/cgroup in tests/fixtures/cgroups.
    fn read(layout: &str) -> Placement {
        let path = format!("{}/tests/fixtures/cgroups/{layout}", env!("CARGO_MANIFEST_DIR"));
        parse_placement(&std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    #[test]
    fn each_engines_layout_has_the_container_and_the_pod() {
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
    fn only_a_service_unit_is_a_service() {
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
    fn a_conclusive_v2_path_gives_the_whole_placement() {
        let conclusive = |text: &str| conclusive_v2_path(text.as_bytes()).map(str::to_owned);
        let container = format!("/docker/{ID}");
        assert_eq!(conclusive("0::/a.service\n"), Some("/a.service".to_owned()));
        assert_eq!(conclusive(&format!("1:name=systemd:/\n0::{container}\n")), Some(container.clone()));
        assert_eq!(conclusive(&format!("1:name=systemd:{container}\n0::/\n")), None);
        assert_eq!(conclusive(&format!("1:name=systemd:{container}\n")), None);
        let inner = format!("/docker/{}/docker/{ID}", "f".repeat(64));
        assert_eq!(conclusive(&format!("1:name=systemd:{inner}\n0::/docker/{}\n", "f".repeat(64))), None);
    }

    #[test]
    fn malformed_files_have_no_placement() {
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
            assert_eq!(parse_placement(text.as_bytes()), Placement::default(), "{text:?}");
        }
        assert_eq!(parse_placement(b"0::/\xff\xfe.service"), Placement::default());
        // One digit less, one more, upper case.
        for id in [&ID[1..], &format!("{ID}0"), &ID.to_uppercase()] {
            assert_eq!(parse_placement(format!("0::/docker/{id}").as_bytes()), Placement::default(), "{id}");
        }
    }
}
