//! Memory for plain data of one type, and whether memory that arrived is that.

use std::mem::{align_of, size_of};

use bytemuck::Pod;
use mp_core::region::Region;

use crate::{Error, Result};

/// Memory for `length` elements, all zero, aligned for them.
pub(crate) fn region<T: Pod>(name: &'static str, length: usize) -> Result<Region> {
    const { assert!(align_of::<T>() <= 64, "data in shared memory are aligned to 64 bytes at most") };
    let size = length.checked_mul(size_of::<T>()).filter(|size| isize::try_from(*size).is_ok());
    let Some(size) = size else {
        let reason = format!("a shared {name} of {length} elements of {} bytes", size_of::<T>());
        return Err(Error::Invalid { what: "length", reason });
    };
    // A short block is aligned to its length only.
    Ok(Region::new(name, size.max(align_of::<T>()))?)
}

/// Refuses what arrived if it is not a `what` of plain data like `T`; the error says what it is instead.
pub(crate) fn check<T>(
    what: &str,
    is_one: bool,
    size: usize,
    align: usize,
) -> std::result::Result<(), String> {
    let name = std::any::type_name::<T>();
    if !is_one {
        return Err(format!("this is no shared {what} of {name}"));
    }
    if (size, align) != (size_of::<T>(), align_of::<T>()) {
        return Err(format!("a shared {what} of {size} bytes aligned to {align} is none of {name}"));
    }
    Ok(())
}
