//! How much waits: what the journal says, and how far the segments have grown. Costs one look at each segment.

use crate::error::Result;
use crate::layout::Layout;
use crate::segment::find_end;
use crate::state::{SegmentId, State};
use crate::sys::File;
use rustix::fs::OFlags;
use std::collections::HashMap;

/// Open segments, and where they ended when last seen.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    known: HashMap<SegmentId, Known>,
}

#[derive(Debug)]
struct Known {
    file: Option<File>,
    size: u64,
    end: (u64, u64),
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub items: u64,
    pub bytes: u64,
}

impl Usage {
    /// Closes the file of a segment that is gone, for its room to become free.
    pub fn forget(&mut self, id: SegmentId) {
        self.known.remove(&id);
    }

    /// Counts what waits. Call it with the queue's lock, or for information only.
    pub fn measure(&mut self, layout: &Layout, state: &State) -> Result<Waiting> {
        let mut waiting = Waiting::default();
        self.known.retain(|id, _| state.segments.get(id).is_some_and(|s| !s.ended));
        for (id, segment) in &state.segments {
            waiting.items += segment.ready_items();
            waiting.bytes +=
                segment.ready.values().map(|s| s.end_offset.saturating_sub(s.offset)).sum::<u64>();
            if segment.ended {
                continue;
            }
            let next = (segment.next, segment.next_offset);
            let known = match self.known.get_mut(id) {
                Some(known) => known,
                None => {
                    let file = File::find(&layout.segment(*id), OFlags::RDONLY)?;
                    self.known.entry(*id).or_insert(Known { file, size: 0, end: next })
                }
            };
            let Some(file) = &known.file else { continue };
            let size = file.size()?;
            if size != known.size || known.end < next {
                known.end = find_end(file, *id, known.end.max(next))?;
                known.size = size;
            }
            waiting.items += known.end.0.saturating_sub(segment.next);
            waiting.bytes += known.end.1.saturating_sub(segment.next_offset);
        }
        Ok(waiting)
    }
}
