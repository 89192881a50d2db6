//! The image this code was linked into: where it is mapped and which build it is.
//!
//! A function travels as a distance inside this image, so both sides must have been started from the same build.
//! The build id that the linker wrote (a hash of the output) says so; where the linker wrote none, a hash of the
//! code itself does.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Identity of a build: equal exactly when two processes run the same image.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BuildId([u8; 20]);

impl BuildId {
    /// The build of the running image.
    pub fn current() -> BuildId {
        Image::current().build
    }

    /// Reads the form that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<BuildId> {
        if text.len() != 40 || !text.is_ascii() {
            return None;
        }
        let mut id = [0; 20];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(BuildId(id))
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// What the loader knows of the image that holds this code.
#[derive(Debug)]
pub(crate) struct Image {
    /// The memory that nobody writes once the program runs: constants, relocated or not, and code.
    constant: Vec<Range<usize>>,
    /// The segments that hold code.
    code: Vec<Range<usize>>,
    /// Pointers to the constructors of the image, in the order in which they are run.
    #[cfg_attr(not(feature = "auto"), allow(dead_code, reason = "only the entry runs constructors"))]
    pub(crate) constructors: Range<usize>,
    /// Whether it is the program itself and not a shared library.
    pub(crate) is_program: bool,
    pub(crate) build: BuildId,
}

impl Image {
    pub(crate) fn current() -> &'static Image {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(Image::read)
    }

    /// Whether `bytes` bytes from `address` on are constants of this image, so that whatever they are, the build made
    /// them so, and not somebody who can have the program store what he sent.
    pub(crate) fn holds_constant(&self, address: usize, bytes: usize) -> bool {
        let end = address.checked_add(bytes);
        self.constant.iter().any(|range| range.start <= address && end.is_some_and(|end| end <= range.end))
    }

    /// Whether `address` is executable memory of this image.
    pub(crate) fn is_code(&self, address: usize) -> bool {
        self.code.iter().any(|range| range.contains(&address))
    }

    fn read() -> Image {
        let mut search =
            Search { address: std::ptr::from_ref(&crate::function::ANCHOR).addr(), index: 0, found: None };
        // SAFETY: the callback has the wanted signature and `search` outlives the call, which is synchronous.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast::<c_void>()) };
        search.found.unwrap_or(Image {
            constant: Vec::new(),
            code: Vec::new(),
            constructors: 0..0,
            is_program: false,
            build: BuildId([0; 20]),
        })
    }
}

struct Search {
    address: usize,
    index: usize,
    found: Option<Image>,
}

extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
    // SAFETY: `dl_iterate_phdr` passes on the pointer that `Image::read` gave it, to this thread only.
    let search = unsafe { &mut *search.cast::<Search>() };
    // SAFETY: the loader passes a valid record that lives as long as this call.
    let info = unsafe { &*info };
    let headers: &[libc::Elf64_Phdr] = if info.dlpi_phdr.is_null() {
        &[]
    } else {
        // SAFETY: the loader's table has `dlpi_phnum` entries.
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr.cast(), info.dlpi_phnum.into()) }
    };
    let range = |header: &libc::Elf64_Phdr| {
        let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
        start..start.wrapping_add(header.p_memsz as usize)
    };
    let of_type = |kind: u32| headers.iter().filter(move |header| header.p_type == kind);
    let index = search.index;
    search.index += 1;
    if !of_type(libc::PT_LOAD).any(|header| range(header).contains(&search.address)) {
        return 0;
    }
    let is_constant = |header: &&libc::Elf64_Phdr| header.p_flags & libc::PF_W == 0;
    let mut constant: Vec<_> = of_type(libc::PT_LOAD).filter(is_constant).map(range).collect();
    // What the loader writes once, and makes read-only then. Where the linker was told not to set it apart, relocated
    // constants lie among the variables.
    match of_type(libc::PT_GNU_RELRO).next() {
        Some(relocated) => constant.push(range(relocated)),
        None => constant = of_type(libc::PT_LOAD).map(range).collect(),
    }
    let code: Vec<_> = of_type(libc::PT_LOAD).filter(|h| h.p_flags & libc::PF_X != 0).map(range).collect();
    let build = of_type(libc::PT_NOTE)
        // SAFETY: note segments lie inside the mapped segments of the image and are never written.
        .find_map(|header| linker_build_id(unsafe { bytes_of(range(header)) }))
        .unwrap_or_else(|| code_hash(&code));
    let constructors =
        // SAFETY: the loader has relocated the dynamic table of this image before any of its code runs.
        of_type(libc::PT_DYNAMIC).find_map(|h| unsafe { constructors(range(h), info.dlpi_addr as usize) });
    search.found = Some(Image {
        constant,
        code,
        constructors: constructors.unwrap_or(0..0),
        is_program: index == 0,
        build: BuildId(build),
    });
    1
}

/// # Safety
/// `range` must be mapped, readable and not written by anybody.
unsafe fn bytes_of<'a>(range: Range<usize>) -> &'a [u8] {
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(range.start), range.len()) }
}

/// The note `NT_GNU_BUILD_ID` of owner `GNU`, folded to 20 bytes.
fn linker_build_id(mut notes: &[u8]) -> Option<[u8; 20]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    loop {
        let (name_len, len, kind) = (word(notes, 0)? as usize, word(notes, 4)? as usize, word(notes, 8)?);
        let start = 12 + name_len.next_multiple_of(4);
        let end = start.checked_add(len)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..12 + name_len)? == b"GNU\0" && len > 0 {
            let mut id = [0; 20];
            notes.get(start..end)?.iter().enumerate().for_each(|(i, byte)| id[i % 20] ^= byte);
            return Some(id);
        }
        notes = notes.get(end.next_multiple_of(4)..)?;
    }
}

/// A 160-bit hash of the code segments: position-independent code is mapped unchanged in every process.
fn code_hash(code: &[Range<usize>]) -> [u8; 20] {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [1u64, 2, 3];
    for range in code {
        // SAFETY: code segments are mapped readable, and nobody writes code.
        for (i, chunk) in unsafe { bytes_of(range.clone()) }.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let lane = &mut lanes[i % 3];
            *lane = (*lane ^ u64::from_le_bytes(word)).wrapping_mul(PRIME).rotate_left(29);
        }
    }
    let mut id = [0; 20];
    lanes.iter().flat_map(|lane| lane.to_le_bytes()).enumerate().for_each(|(i, byte)| id[i % 20] ^= byte);
    id
}

/// The range of `.init_array`, from the dynamic table.
///
/// # Safety
/// `table` must be the dynamic table of a loaded image with the given load address.
unsafe fn constructors(table: Range<usize>, load_address: usize) -> Option<Range<usize>> {
    const DT_NULL: i64 = 0;
    const DT_INIT_ARRAY: i64 = 25;
    const DT_INIT_ARRAYSZ: i64 = 27;
    let (mut start, mut len) = (None, None);
    let mut entry: *const [i64; 2] = std::ptr::with_exposed_provenance(table.start);
    while entry.addr() < table.end {
        // SAFETY: `entry` lies inside the table.
        let [tag, value] = unsafe { *entry };
        match tag {
            DT_NULL => break,
            DT_INIT_ARRAY => start = Some(load_address.wrapping_add(value as usize)),
            DT_INIT_ARRAYSZ => len = Some(value as usize),
            _ => {}
        }
        // SAFETY: at most one past the end of the table.
        entry = unsafe { entry.add(1) };
    }
    Some(start?..start?.checked_add(len?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_code_and_data() {
        let image = Image::current();
        assert!(image.is_program);
        assert!(image.is_code(knows_its_own_code_and_data as *const () as usize));
        assert!(!image.is_code(std::ptr::from_ref(image).addr()), "the heap is not code");
        assert!(image.holds_constant(std::ptr::from_ref(&crate::function::ANCHOR).addr(), 1));
        assert!(!image.constructors.is_empty());
    }

    #[test]
    fn build_ids_survive_their_text_form() {
        let id = BuildId::current();
        assert_eq!(BuildId::parse(&id.to_string()), Some(id));
        assert_ne!(id, BuildId([0; 20]));
        for bad in ["", "12", &"g".repeat(40), &"é".repeat(20)] {
            assert_eq!(BuildId::parse(bad), None);
        }
    }

    #[test]
    fn without_a_note_the_code_itself_is_the_identity() {
        assert_eq!(linker_build_id(&[]), None);
        assert_eq!(linker_build_id(&[0; 12]), None, "an empty note is skipped, then the bytes end");
        assert_eq!(linker_build_id(&[0xff; 64]), None);
        let code = &Image::current().code;
        assert_eq!(code_hash(code), code_hash(code));
        assert_ne!(code_hash(code), code_hash(&[]));
    }
}
