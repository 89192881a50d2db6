//! How many physical cores this process may use.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Once;

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::cpu::cpu_count;
use crate::logging::get_logger;

/// Number of physical cores that this process can keep busy, at least 1 and at most [`cpu_count`].
///
/// CPUs that share a core (hyper-threads) count once. Where the system does not say which do, this is [`cpu_count`],
/// and a warning is logged, once. Follows `loky.cpu_count(only_physical_cores=True)`.
///
/// ```
/// let cores = mp_context::physical_cpu_count();
/// assert!((1..=mp_context::cpu_count()).contains(&cores));
/// ```
pub fn physical_cpu_count() -> usize {
    let logical = cpu_count();
    let allowed: Vec<usize> = sched_getaffinity(None)
        .map(|set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
        .unwrap_or_default();
    match cores(Path::new("/sys/devices/system/cpu"), &allowed) {
        Some(cores) => cores.clamp(1, logical),
        None => {
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                get_logger().warn("the system does not say which CPUs share a core; all of them are counted")
            });
            logical
        }
    }
}

/// Number of different cores among `cpus`; `None` when that cannot be told.
fn cores(root: &Path, cpus: &[usize]) -> Option<usize> {
    let cores: Option<BTreeSet<(String, String)>> = cpus
        .iter()
        .map(|cpu| {
            // Cores are numbered anew in each socket.
            let read =
                |name: &str| std::fs::read_to_string(root.join(format!("cpu{cpu}/topology/{name}"))).ok();
            Some((read("physical_package_id")?, read("core_id")?))
        })
        .collect();
    cores.map(|cores| cores.len()).filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these pairs of socket and core, one for each CPU.
    fn machine(name: &str, cpus: &[(u32, u32)]) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("mp-cores-{name}-{}", std::process::id()));
        for (cpu, (socket, core)) in cpus.iter().enumerate() {
            let topology = root.join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&topology).expect("a folder");
            std::fs::write(topology.join("physical_package_id"), format!("{socket}\n")).expect("a file");
            std::fs::write(topology.join("core_id"), format!("{core}\n")).expect("a file");
        }
        root
    }

    #[test]
    fn proc_25_siblings_count_once() {
        let root = machine("siblings", &[(0, 0), (0, 0), (0, 1), (0, 1)]);
        assert_eq!(cores(&root, &[0, 1, 2, 3]), Some(2));
        assert_eq!(cores(&root, &[0, 1]), Some(1));
        assert_eq!(cores(&root, &[0, 2]), Some(2));
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn proc_25_sockets_count_apart() {
        let root = machine("sockets", &[(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert_eq!(cores(&root, &[0, 1, 2, 3]), Some(4));
        assert_eq!(cores(&root, &[0, 1, 7]), None, "of one of them nothing is known");
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn proc_25_what_is_unknown_is_all() {
        assert_eq!(cores(Path::new("/nowhere"), &[0, 1]), None);
        assert_eq!(cores(Path::new("/nowhere"), &[]), None);
        assert!((1..=cpu_count()).contains(&physical_cpu_count()));
    }
}
