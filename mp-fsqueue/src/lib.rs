//! A directory that is a queue, safe for every process that opens it.
//!
//! Any number of processes put items and get them, whether they know each other or not, start together or years apart. There
//! is no server, nothing to set up, and nothing is buffered: when [`put`](FsQueue::put) returns, every process sees the item,
//! and the writer may exit, or be killed, at once. Two ways to consume:
//!
//! - [`get`](FsQueue::get), [`drain`](FsQueue::drain): an item is taken for ever by exactly one consumer; one that is killed
//!   with an item in its hands takes it along.
//! - [`receive`](FsQueue::receive): an item is claimed, worked on, and [acknowledged](Claim::ack). If its consumer dies before,
//!   it comes back at once. A consumer that is killed between its work and the acknowledgement makes it come twice, so
//!   consumers should be idempotent, or commit [`Claim::id`] together with their work.
//!
//! An item that cannot be read is never deleted: it goes to the quarantine, with the reason; see [`FsQueue::failed`].
//!
//! ```
//! # let dir = std::env::temp_dir().join(format!("fsqueue-doc-{}", std::process::id()));
//! use mp_fsqueue::FsQueue;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Event {
//!     name: String,
//!     size: u64,
//! }
//!
//! // Here, or in any other process:
//! let spool = FsQueue::<Event>::open(&dir)?;
//! spool.put(&Event { name: "upload".to_owned(), size: 7 })?;
//!
//! // The one that writes to the database:
//! let batch = spool.receive(1000)?;
//! for event in &*batch {
//!     println!("{} {}", event.name, event.size);
//! }
//! batch.ack()?;
//! # std::fs::remove_dir_all(&dir).unwrap();
//! # Ok::<(), mp_fsqueue::Error>(())
//! ```
//!
//! The command `fsqueue put|get|drain|ls|stats|requeue|watch|check DIR` does the same for shell scripts; `FORMAT.md` describes
//! the files for other languages.
//!
//! # Order
//!
//! Exactly the order of the puts, for the items of one writer (a handle and its clones, in one process). Items of different
//! writers of one host come in the order in which their puts were over: what was put before another put began comes before it,
//! however the host's clock is set. Across hosts the order is that of their clocks. Items that were claimed and come back keep
//! their place.
//!
//! # Network file systems
//!
//! Needed: `flock` that excludes other hosts (NFS 4, or 3 with a lock manager; CIFS; not `nolock` or `local_lock` mounts), atomic
//! rename, exclusive create, and that what was synced is seen by those who take the lock later. Then order per writer and
//! one consumer per item hold across hosts. Puts are always synced there, since others see nothing else. Waiting falls back to
//! a look every tenth of a second, and consumers of other hosts are taken for dead only after
//! [`stale_after`](Builder::stale_after). Clocks of hosts should agree to within that time, and a file's time of modification
//! must reach other hosts.
//!
//! Tested with mounts, networks and pids of their own on one machine, and with one machine that takes itself for two; not
//! against a file server.
//!
//! # Layout, and why
//!
//! ```text
//! segments/   per writer: files that only it writes, append-only      journal   what became of items, 64 bytes an entry
//! consumers/  per consumer with claims: a file whose lock it holds    lock      held by who reads or writes the journal
//! failed/     the quarantine
//! ```
//!
//! Measured on ext4 in one run, relative to one append of 144 bytes by `pwrite` (0.75 us on a loaded virtual machine):
//!
//! | | times an append |
//! | --- | --- |
//! | one file an item, create and rename | 50 to 110, and different in each run |
//! | the same, open, read and unlink | 14 to 3000 |
//! | `pwrite` into preallocated space | 1.1 |
//! | 32 bytes written over and over at one place | 0.85 |
//! | `flock` and unlock | 0.95 |
//! | `fcntl` lock and unlock | 1.35 |
//! | size of the journal by `lseek` | 0.35 |
//! | a `get`: lock, size, append an entry, unlock | 2.5 |
//! | append by `O_APPEND`, then ask where it went | 1.4 |
//!
//! - *Items in files of their own* cost fifty appends and more; a durable one waits for the disk twice or more, not once.
//! - *Each writer appends to its own files*: a put is one system call; no lock, no other writer, no torn neighbour. Preallocated
//!   space gains nothing, neither with `fdatasync`, so a file's end is simply its size.
//! - *One journal, not one per consumer*: whoever has the lock knows by one `lseek` that nothing changed since it last had it.
//!   With a journal per consumer it would have to look at each. Leasing items ahead to a consumer would save the lock, but a
//!   consumer that goes on to something else would keep items from others that it never asked for.
//! - *Claiming by `O_APPEND`* (the position tells who was first) is faster by half than the lock, but not atomic on network
//!   file systems, where locks are; one protocol is better than two.
//! - *No shared sync between processes*: threads of one share one ([`Durability::Group`]), but eight processes that each sync
//!   their own file put four times as much as eight that let a leader call `syncfs` for all, and eleven times as much as with a
//!   leader that syncs their files one by one. The file system's journal groups them already.
//! - *State is spans*, so a million waiting items are one number, and `len` is one look at each segment's end.
//!
//! # Why no crash can break it
//!
//! - A record is there when it is whole, so a writer that dies in `put` has put nothing. The only bytes it can leave are at the end of
//!   a file that nobody will append to again.
//! - An entry of the journal is there when it is whole, and written behind all others by the holder of the lock. The kernel frees
//!   the lock of the dead; the next holder cuts off what is not whole.
//! - Whatever needs more than one step is ordered so that its first half does no harm: a segment is created, locked and entered
//!   before its first record; an item is copied to the quarantine before the journal says so; a file is removed before the
//!   journal forgets it; a new journal is complete before it takes the name. Leftovers of each are recognised under the lock.
//! - A process that is stopped, not killed, while it has the lock, holds up consumers and new segments until it goes on. It
//!   has the lock for some microseconds a call, and waits for the disk with it only where a file begins or goes.
//! - `receive` decodes when the lock is free again: until an item is acknowledged, its consumer's death brings it back.
//!   `get` decodes with the lock in its hands: one that first took an item and then found it unreadable could be killed
//!   before the quarantine has it, and nothing may go because it could not be read.
//!   All timed calls end in time all the same, with [`Error::Busy`] if they needed the lock; puts go on in the writer's
//!   open segment.
//! - A power cut keeps what was synced, and of the rest anything. An item is synced before `put` returns, and its fate before
//!   `get` or `ack` does; each step of what has more is synced before the next. Once anyone waits for the disk, all do so
//!   where they remove or replace something.
//! - Locks of files tell who lives. In a child that was forked, a handle opens everything anew.
#![forbid(unsafe_code)]

mod claim;
mod consumer;
#[cfg(test)]
mod crash;
mod cursor;
mod error;
mod failed;
mod group;
mod host;
#[cfg(test)]
mod hosts;
mod journal;
mod layout;
mod ledger;
mod options;
#[cfg(test)]
mod power;
mod queue;
mod record;
mod segment;
mod side;
mod state;
mod stats;
mod sys;
mod usage;
mod wait;
mod writer;

pub use claim::{Batch, Claim, Drained};
pub use error::{Error, ItemId, Result};
pub use failed::Failed;
pub use options::{Builder, Durability};
pub use queue::{FsQueue, Iter};
pub use stats::{Problem, Stats};
