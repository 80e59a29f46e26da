//! Which container a process is in, by its cgroups (`/proc/PID/cgroup`). Pure.

/// A pod's unique id is a UUID.
const POD_ID_CHARS: usize = 36;
/// Container ids are SHA-256 sums or random numbers of the same length.
const ID_DIGITS: usize = 64;

/// The container id that a process's cgroup file names: docker, containerd, CRI-O, podman; cgroup v1 and v2, systemd
/// and cgroupfs drivers.
pub fn container_of(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        // `hierarchy:controllers:path`; the path may have colons of its own.
        let path = line.splitn(3, ':').nth(2)?;
        path.rsplit('/').find_map(id_in)
    })
}

/// `ID`, `docker-ID.scope`, `cri-containerd-ID.scope`, `kubepods-…:cri-containerd:ID`, `libpod-ID`.
fn id_in(component: &str) -> Option<&str> {
    // A container's monitor runs beside the container, under a name made of its id.
    if component.contains("conmon") {
        return None;
    }
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let id = name.rsplit(['-', ':']).next()?;
    let is_id = id.len() == ID_DIGITS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then_some(id)
}

/// The unique id of the Kubernetes pod that a process's cgroup file names: `pod4f3c…` (cgroupfs driver),
/// `kubepods-burstable-pod4f3c….slice` (systemd driver, with `_` in place of `-`).
#[must_use]
pub fn pod_of(cgroups: &str) -> Option<String> {
    let is_id = |id: &str| {
        id.len() == POD_ID_CHARS && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
    };
    cgroups.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        path.split('/').find_map(|component| {
            let name = component.strip_suffix(".slice").unwrap_or(component);
            let id = name.rsplit_once("pod")?.1.replace('_', "-");
            is_id(&id).then_some(id)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_by_its_unique_id() {
        const POD: &str = "2d3f1a6e-8b9c-4d5e-9f00-112233445566";
        for line in [
            "0::/kubepods/burstable/podPOD/ID",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/cri-containerd-ID.scope",
            "12:memory:/kubepods/podPOD/ID\n0::/",
        ] {
            let text = line.replace("POD_", &POD.replace('-', "_")).replace("POD", POD).replace("ID", ID);
            assert_eq!(pod_of(&text).as_deref(), Some(POD), "{line}");
        }
        assert_eq!(pod_of("0::/system.slice/podman.service"), None);
    }

    const ID: &str = "3f4e0b6d8a5c2e1f90a7b6c5d4e3f2a1908070605040302010f0e0d0c0b0a090";

    #[test]
    fn every_runtime_names_the_container_in_its_own_way() {
        for line in [
            "0::/docker/ID",
            "12:memory:/docker/ID\n11:cpu,cpuacct:/docker/ID\n1:name=systemd:/docker/ID\n0::/",
            "0::/system.slice/docker-ID.scope",
            "0::/system.slice/docker-ID.scope/init",
            "0::/kubepods/besteffort/pod1b2c/ID",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b.slice/cri-containerd-ID.scope",
            "0::/kubepods.slice/kubepods-pod1b.slice/crio-ID.scope",
            "0::/kubepods.slice/kubepods-pod1b.slice/crio-ID.scope/container",
            "5:cpuset:/system.slice/containerd.service/kubepods-besteffort-pod1b.slice:cri-containerd:ID",
            "0::/machine.slice/libpod-ID.scope/container",
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "0::/libpod_parent/libpod-ID",
            "0::/default/ID",
            "0::/../ID",
        ] {
            let text = line.replace("ID", ID);
            assert_eq!(container_of(&text), Some(ID), "{text}");
        }
    }

    #[test]
    fn what_is_no_container_has_no_id() {
        for line in [
            "",
            "0::/",
            "0::/system.slice/ssh.service",
            "0::/user.slice/user-1000.slice/session-3.scope",
            "0::/machine.slice/libpod-conmon-ID.scope",
            "0::/kubepods.slice/crio-conmon-ID.scope",
            "0::/system.slice/docker.service",
            "garbage",
        ] {
            let text = line.replace("ID", ID);
            assert_eq!(container_of(&text), None, "{text}");
        }
    }
}
