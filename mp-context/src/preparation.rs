//! What a child is told about itself before it is told what to do.

use std::ffi::OsString;
use std::path::PathBuf;

use mp_core::function::{Once, Remote};
use mp_core::process::environment::EnvironmentChange;
use rustix::process::{Resource as SystemResource, Rlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::logging::Inheritance;
use crate::method::StartMethod;

/// The first message to a child.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Preparation {
    pub name: String,
    pub identity: Vec<u32>,
    pub daemon: bool,
    pub method: StartMethod,
    /// The parent's default method.
    pub default_method: Option<StartMethod>,
    pub parent_name: String,
    pub parent_pid: u32,
    #[serde(with = "mp_core::codec::bulk")]
    pub authkey: Vec<u8>,
    /// The program for the child's own children.
    #[serde(with = "any_path")]
    pub executable: Option<PathBuf>,
    pub logging: Inheritance,
    pub settings: Settings,
}

/// The second message: what to call. The encoded arguments follow it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub function: Remote<Once>,
}

/// What the child changes about itself before it calls anything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub environment: EnvironmentChange,
    #[serde(with = "any_path")]
    pub current_dir: Option<PathBuf>,
    pub cpu_affinity: Option<Vec<usize>>,
    pub nice: Option<i32>,
    pub limits: Vec<(Resource, Option<u64>, Option<u64>)>,
}

/// Paths as the system has them: serde's own encoding refuses those that are not UTF-8.
mod any_path {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| path.as_os_str()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<OsString>::deserialize(deserializer)?.map(PathBuf::from))
    }
}

/// A resource that the system can limit for one process, see `setrlimit(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Resource {
    /// Bytes of address space.
    AddressSpace,
    /// Bytes of a core dump.
    CoreDump,
    /// Seconds of CPU time.
    CpuTime,
    /// Bytes of heap.
    Data,
    /// Bytes of a file that it writes.
    FileSize,
    /// Bytes of locked memory.
    LockedMemory,
    /// Highest descriptor, plus one.
    OpenFiles,
    /// Processes and threads of the user.
    Processes,
    /// Bytes of stack of the main thread.
    Stack,
}

impl Settings {
    /// Makes the changes in this process; says in words what failed.
    pub fn apply(&self) -> Result<(), String> {
        self.environment.apply().map_err(|error| error.to_string())?;
        if let Some(path) = &self.current_dir {
            std::env::set_current_dir(path)
                .map_err(|error| format!("changing to the folder {}: {error}", path.display()))?;
        }
        for &(resource, soft, hard) in &self.limits {
            setrlimit(resource.system(), Rlimit { current: soft, maximum: hard })
                .map_err(|error| format!("limiting {resource:?} to {soft:?}: {error}"))?;
        }
        if let Some(cpus) = &self.cpu_affinity {
            let mut set = CpuSet::new();
            if let Some(cpu) = cpus.iter().find(|cpu| **cpu >= CpuSet::MAX_CPU) {
                return Err(format!("there is no CPU {cpu}"));
            }
            cpus.iter().for_each(|cpu| set.set(*cpu));
            sched_setaffinity(None, &set)
                .map_err(|error| format!("running on the CPUs {cpus:?}: {error}"))?;
        }
        if let Some(increment) = self.nice {
            rustix::process::nice(increment)
                .map_err(|error| format!("changing the nice value by {increment}: {error}"))?;
        }
        Ok(())
    }

    /// Adds a variable to be set, over one of the same name.
    pub fn set_variable(&mut self, name: OsString, value: OsString) {
        self.environment.removed.retain(|other| *other != name);
        self.environment.set.retain(|(other, _)| *other != name);
        self.environment.set.push((name, value));
    }

    /// Adds a variable to be removed.
    pub fn remove_variable(&mut self, name: OsString) {
        self.environment.set.retain(|(other, _)| *other != name);
        self.environment.removed.push(name);
    }
}

impl Resource {
    fn system(self) -> SystemResource {
        match self {
            Resource::AddressSpace => SystemResource::As,
            Resource::CoreDump => SystemResource::Core,
            Resource::CpuTime => SystemResource::Cpu,
            Resource::Data => SystemResource::Data,
            Resource::FileSize => SystemResource::Fsize,
            Resource::LockedMemory => SystemResource::Memlock,
            Resource::OpenFiles => SystemResource::Nofile,
            Resource::Processes => SystemResource::Nproc,
            Resource::Stack => SystemResource::Stack,
        }
    }
}
