//! How many CPUs this process may use.

use std::path::Path;

/// Number of CPUs that this process can keep busy, at least 1.
///
/// The smallest of: the CPUs that it is allowed to run on (affinity), the CPU quota of its control groups (v1 and v2,
/// rounded up), and the variable `MULTIPROCESS_MAX_CPU_COUNT` if it is set to a positive number. Python's
/// `multiprocessing.cpu_count` counts the machine instead, and overloads containers; this follows `loky.cpu_count`.
///
/// ```
/// assert!(mp_context::cpu_count() >= 1);
/// ```
pub fn cpu_count() -> usize {
    let affinity = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
    let chosen = std::env::var("MULTIPROCESS_MAX_CPU_COUNT").ok().and_then(|text| text.parse().ok());
    let quota =
        quota(Path::new("/sys/fs/cgroup"), &std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    least(affinity, quota, chosen)
}

fn least(affinity: usize, quota: Option<f64>, chosen: Option<usize>) -> usize {
    let quota = quota.map_or(usize::MAX, |cpus| cpus.ceil() as usize);
    affinity.min(quota).min(chosen.filter(|count| *count > 0).unwrap_or(usize::MAX)).max(1)
}

/// The smallest quota, in CPUs, of the control groups that this process is in and of those around them.
fn quota(root: &Path, membership: &str) -> Option<f64> {
    let mut smallest: Option<f64> = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let v2 = controllers.is_empty();
        if !v2 && !controllers.split(',').any(|name| name == "cpu") {
            continue;
        }
        let base = if v2 { root.to_owned() } else { root.join(controllers) };
        // Inside a container the path may be that of the host, and only the root is there.
        let relative = Path::new(path.trim_start_matches('/'));
        for group in relative.ancestors().map(|ancestor| base.join(ancestor)) {
            let found = if v2 { quota_v2(&group) } else { quota_v1(&group) };
            smallest = match (smallest, found) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    smallest
}

fn quota_v2(group: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

fn quota_v1(group: &Path) -> Option<f64> {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    ratio(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

/// `max` and -1 stand for no quota.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_of_affinity_quota_and_choice() {
        // NA-33
        assert_eq!(least(2, Some(1.5), None), 2);
        assert_eq!(least(64, Some(1.5), None), 2);
        assert_eq!(least(64, Some(0.1), None), 1);
        assert_eq!(least(8, None, Some(3)), 3);
        assert_eq!(least(8, None, Some(0)), 8);
        assert_eq!(least(0, None, None), 1);
    }

    #[test]
    fn quotas_of_both_versions_and_of_outer_groups() {
        // NA-33
        let root = std::env::temp_dir().join(format!("mp-cpu-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        write("a/cpu.max", "150000 100000\n");
        write("a/b/cpu.max", "max 100000\n");
        write("cpu,cpuacct/c/cpu.cfs_quota_us", "50000\n");
        write("cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
        write("cpu,cpuacct/d/cpu.cfs_quota_us", "-1\n");
        write("cpu,cpuacct/d/cpu.cfs_period_us", "100000\n");
        assert_eq!(quota(&root, "0::/a/b\n"), Some(1.5));
        assert_eq!(quota(&root, "3:cpu,cpuacct:/c\n2:memory:/c\n"), Some(0.5));
        assert_eq!(quota(&root, "3:cpu,cpuacct:/d\n"), None);
        assert_eq!(quota(&root, "0::/elsewhere\nnonsense\n"), None);
        std::fs::remove_dir_all(&root).expect("removed");
    }
}
