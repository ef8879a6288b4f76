//! How much memory the process has, and how much it may have.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where control groups are mounted, by version 1 (of memory) and 2.
const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// Bytes of the process in physical memory.
pub fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    line.map(|kib: u64| kib * 1024).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no VmRSS"))
}

/// What the control group may have, that of a container say: the least of its own limit and those above it.
pub fn cgroup_limit() -> Option<u64> {
    limit_of(&fs::read_to_string("/proc/self/cgroup").ok()?, |path| fs::read_to_string(path).ok())
}

fn limit_of(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let files = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => (V2, "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => (V1, "memory.limit_in_bytes"),
            _ => return None,
        };
        Some((PathBuf::from(root), group.trim_start_matches('/').to_owned(), file))
    });
    let limits = files.flat_map(|(root, group, file)| {
        // Within a container its own group may be mounted as the root, whatever its name outside is.
        let groups: Vec<_> = Path::new(&group).ancestors().map(|group| root.join(group).join(file)).collect();
        groups
    });
    // `max`, or a number near the largest, is no limit.
    limits.filter_map(|path| read(&path)?.trim().parse().ok()).filter(|limit| *limit < 1 << 60).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_some() {
        assert!((1 << 20..1 << 40).contains(&resident().unwrap()));
    }

    #[test]
    fn the_least_limit_on_the_way_to_the_root_counts() {
        let v2 = |path: &Path| match path.to_str().unwrap() {
            "/sys/fs/cgroup/pods/a/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/pods/memory.max" => Some("1000\n".to_owned()),
            "/sys/fs/cgroup/memory.max" => Some("2000\n".to_owned()),
            _ => None,
        };
        assert_eq!(limit_of("0::/pods/a\n", v2), Some(1000));
        assert_eq!(limit_of("0::/\n", v2), Some(2000));
        assert_eq!(limit_of("0::/not/mounted/here\n", v2), Some(2000));
        let v1 = |path: &Path| match path.to_str().unwrap() {
            "/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes" => Some("5000".to_owned()),
            "/sys/fs/cgroup/memory/memory.limit_in_bytes" => Some("9223372036854771712".to_owned()),
            _ => None,
        };
        assert_eq!(limit_of("4:cpu,memory:/docker/x\n1:cpu:/\n0::/\n", v1), Some(5000));
        assert_eq!(limit_of("4:memory:/elsewhere\n", v1), None);
    }
}
