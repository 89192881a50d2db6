//! Where everything stands below the root of a queue.

use crate::state::SegmentId;
use std::path::{Path, PathBuf};

/// The paths of a queue.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub root: PathBuf,
}

impl Layout {
    pub fn new(root: &Path) -> Layout {
        Layout { root: root.to_owned() }
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub fn new_journal(&self) -> PathBuf {
        self.root.join("journal.new")
    }

    pub fn segments(&self) -> PathBuf {
        self.root.join("segments")
    }

    pub fn segment(&self, id: SegmentId) -> PathBuf {
        self.segments().join(id.name())
    }

    /// Written to when items come back, for those who wait for items.
    pub fn bell(&self) -> PathBuf {
        self.segments().join("bell")
    }

    pub fn consumers(&self) -> PathBuf {
        self.root.join("consumers")
    }

    pub fn consumer(&self, id: u64) -> PathBuf {
        self.consumers().join(format!("{id:016x}"))
    }

    pub fn failed(&self) -> PathBuf {
        self.root.join("failed")
    }

    pub fn failed_item(&self, id: SegmentId, sequence: u64) -> PathBuf {
        self.failed().join(format!("{:016x}-{:08x}-{sequence}.item", id.writer, id.number))
    }
}
