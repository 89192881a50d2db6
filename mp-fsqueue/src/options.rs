//! How a queue is opened.

use crate::error::Result;
use crate::queue::FsQueue;
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;
use std::time::Duration;

/// When an item is safe from a power cut. From the death of a process it is safe as soon as `put` returns, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// When the system gets to it, usually within half a minute.
    #[default]
    None,
    /// When `put`, `get` or `ack` returns: each waits for the disk.
    Item,
    /// When `put`, `get` or `ack` returns, but puts of several threads wait for the disk together: one sync serves all
    /// that have arrived within `within`, or when `count` have. Each process syncs its own files: file systems group those.
    Group {
        /// How long the first one waits for others; with zero, those that arrive during a sync share the next.
        within: Duration,
        /// How many are enough.
        count: usize,
    },
}

impl Durability {
    /// Groups of what arrives while a sync is under way.
    pub const GROUP: Durability = Durability::Group { within: Duration::ZERO, count: usize::MAX };

    pub(crate) fn is_durable(self) -> bool {
        self != Durability::None
    }
}

/// Options of a queue; [`FsQueue::builder`] makes one.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("fsqueue-doc-builder-{}", std::process::id()));
/// use mp_fsqueue::{Durability, FsQueue};
/// let q = FsQueue::<String>::builder().durability(Durability::Item).max_items(2).open(&dir)?;
/// q.put(&"a".to_owned())?;
/// q.put(&"b".to_owned())?;
/// assert!(q.put(&"c".to_owned()).unwrap_err().is_full());
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), mp_fsqueue::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) durability: Durability,
    pub(crate) max_items: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) file_mode: Option<u32>,
    pub(crate) dir_mode: Option<u32>,
    pub(crate) segment_bytes: u64,
    pub(crate) read_buffer: usize,
    pub(crate) stale_after: Duration,
    pub(crate) named: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            durability: Durability::None,
            max_items: None,
            max_bytes: None,
            file_mode: None,
            dir_mode: None,
            segment_bytes: 16 << 20,
            read_buffer: 64 << 10,
            stale_after: Duration::from_secs(900),
            named: false,
        }
    }
}

impl Builder {
    /// When items are safe from a power cut; [`Durability::None`] unless said otherwise. On network file systems, where
    /// other hosts see only what was synced, `None` is taken for `Group`.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// `put` fails with [`Error::Full`](crate::Error::Full) while so many items wait. A bound holds for those who set it.
    pub fn max_items(mut self, items: u64) -> Self {
        self.max_items = Some(items);
        self
    }

    /// `put` fails with [`Error::Full`](crate::Error::Full) if the waiting items would take more bytes than this.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Permissions of new files, whatever the umask; 0o666 without the umask's bits unless said otherwise. All who use the
    /// queue need to read and write.
    pub fn file_mode(mut self, mode: u32) -> Self {
        self.file_mode = Some(mode);
        self
    }

    /// Permissions of new directories, whatever the umask.
    pub fn dir_mode(mut self, mode: u32) -> Self {
        self.dir_mode = Some(mode);
        self
    }

    /// Size of a segment file, in bytes, after which a new one is begun (16 MiB). A file is removed when all its items are
    /// done, so this is what a writer may leave lying.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes.max(4096);
        self
    }

    /// How many bytes of each writer are read ahead (64 KiB): the memory that a consumer takes, besides its largest item.
    pub fn read_buffer(mut self, bytes: usize) -> Self {
        self.read_buffer = bytes.max(4096);
        self
    }

    /// After how long a consumer of another host that shows no sign of life is taken for dead (15 minutes). Consumers of
    /// this host are known to be dead at once.
    pub fn stale_after(mut self, age: Duration) -> Self {
        self.stale_after = age;
        self
    }

    /// Encodes structs as maps with field names, so that other languages can read them; otherwise as arrays, which are
    /// smaller. Both can be read, whatever is set here.
    pub fn named_fields(mut self, named: bool) -> Self {
        self.named = named;
        self
    }

    /// Opens the queue in `dir`, which is created with the directories above it if need be.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if files cannot be created; [`Error::NotAQueue`](crate::Error::NotAQueue) if there is
    /// something else.
    pub fn open<T: Serialize + DeserializeOwned>(self, dir: impl AsRef<Path>) -> Result<FsQueue<T>> {
        FsQueue::with(self, dir.as_ref())
    }
}
