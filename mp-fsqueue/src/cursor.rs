//! Reading a segment forwards: a buffer, a place, and the item there. Damage is passed over to the next whole record.

use crate::error::Result;
use crate::record::{self, HEADER, Head, Parsed};
use crate::state::Span;
use crate::sys::File;

#[derive(Debug)]
pub(crate) struct Cursor {
    /// What is to be read: from here to there.
    span: Span,
    seed: u32,
    capacity: usize,
    buffer: Vec<u8>,
    /// Where the buffer stands in the file.
    at: u64,
    head: Option<Head>,
    /// Read to the end of the file; look again only when told to.
    exhausted: bool,
    /// The file's size when the search behind damage was in vain.
    searched: u64,
}

/// What is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// An item.
    Item { time: u64 },
    /// Nothing yet.
    Nothing,
    /// No item, up to the end of this span.
    Damage(Span, &'static str),
}

impl Cursor {
    pub fn new(span: Span, seed: u32, capacity: usize) -> Cursor {
        Cursor {
            span,
            seed,
            capacity,
            buffer: Vec::new(),
            at: span.offset,
            head: None,
            exhausted: false,
            searched: 0,
        }
    }

    /// Goes where the journal says.
    pub fn align(&mut self, span: Span) {
        if (span.first, span.offset) != (self.span.first, self.span.offset) {
            (self.head, self.exhausted) = (None, false);
        }
        self.span = span;
    }

    /// Looks at the file again.
    pub fn refresh(&mut self) {
        self.exhausted = false;
    }

    pub fn span(&self) -> Span {
        self.span
    }

    /// The item here: its span and its body.
    pub fn item(&self) -> Option<(Span, &[u8])> {
        let head = self.head?;
        let start = (self.span.offset - self.at) as usize + HEADER;
        let span = Span {
            first: self.span.first,
            end: head.sequence.saturating_add(1),
            offset: self.span.offset,
            end_offset: self.span.offset + head.total as u64,
        };
        Some((span, self.buffer.get(start..start + head.body)?))
    }

    /// Goes behind the item here.
    pub fn advance(&mut self) {
        if let Some(head) = self.head.take() {
            self.span.first = head.sequence.saturating_add(1);
            self.span.offset += head.total as u64;
        }
    }

    /// Finds the item here.
    pub fn fill(&mut self, file: &File, remote: bool) -> Result<Fill> {
        if let Some(head) = self.head {
            return Ok(Fill::Item { time: head.time });
        }
        if self.exhausted {
            return Ok(Fill::Nothing);
        }
        let mut at_end = false;
        loop {
            let here =
                self.span.offset.checked_sub(self.at).and_then(|skip| self.buffer.get(skip as usize..));
            match record::parse(here.unwrap_or_default(), self.seed) {
                Parsed::Whole(head) if head.sequence >= self.span.first && head.sequence < self.span.end => {
                    self.head = Some(head);
                    return Ok(Fill::Item { time: head.time });
                }
                Parsed::Short(_) if at_end => {
                    self.exhausted = true;
                    return Ok(Fill::Nothing);
                }
                Parsed::Short(wanted) => at_end = !self.read(file, wanted)?,
                // Its bytes are all there, and on this host they are written in order: it will not get better.
                Parsed::BadBody(head) if !remote && head.sequence >= self.span.first => {
                    let end = head.sequence.saturating_add(1);
                    return Ok(self.damage(
                        end,
                        self.span.offset + head.total as u64,
                        "wrong checksum of an item",
                    ));
                }
                _ => return self.search(file),
            }
        }
    }

    fn damage(&self, end: u64, end_offset: u64, why: &'static str) -> Fill {
        Fill::Damage(Span { end, end_offset, ..self.span }, why)
    }

    /// Reads from here on; whether the file goes on.
    fn read(&mut self, file: &File, wanted: usize) -> Result<bool> {
        let mut size = self.capacity.max(wanted);
        if wanted > self.capacity {
            // A damaged length must not make us take memory that no file can fill.
            let rest = file.size()?.saturating_sub(self.span.offset);
            size = size.min(self.capacity.max(rest as usize));
        }
        if self.buffer.capacity() > 4 * self.capacity.max(size) {
            self.buffer = Vec::new();
        }
        self.buffer.resize(size, 0);
        self.at = self.span.offset;
        let got = match file.read_at(&mut self.buffer, self.at) {
            Ok(got) => got,
            Err(e) => {
                self.buffer.clear();
                return Err(e);
            }
        };
        self.buffer.truncate(got);
        Ok(got == size)
    }

    /// Looks for the next whole record behind damage.
    fn search(&mut self, file: &File) -> Result<Fill> {
        let size = file.size()?;
        if self.span.end_offset == u64::MAX && size == self.searched {
            self.exhausted = true;
            return Ok(Fill::Nothing);
        }
        let end = self.span.end_offset.min(size);
        let mut bytes = vec![0; end.saturating_sub(self.span.offset) as usize];
        let got = file.read_at(&mut bytes, self.span.offset)?;
        bytes.truncate(got);
        let why = "no record begins here";
        if let Parsed::Whole(head) = record::parse(&bytes, self.seed)
            && head.sequence < self.span.first
        {
            return Ok(self.damage(
                self.span.first,
                self.span.offset + head.total as u64,
                "a record out of order",
            ));
        }
        match record::find_next(&bytes, self.seed, self.span.first) {
            Some((at, head)) => Ok(self.damage(head.sequence, self.span.offset + at as u64, why)),
            None if self.span.end_offset != u64::MAX => {
                Ok(self.damage(self.span.end, self.span.end_offset, why))
            }
            None => {
                (self.searched, self.exhausted) = (size, true);
                Ok(Fill::Nothing)
            }
        }
    }
}
