//! The lock of an array is one that processes share, and that nobody else can release under a guard.

use multiprocess::{Array, RLock, RawArray, synchronized};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _ = Array::with_lock(&[1, 2, 3], &std::sync::Mutex::new(()));
    let _ = Array::with_lock(&[1, 2, 3], &RLock::new()?);
    let _ = synchronized(RawArray::from_slice(&[1, 2, 3])?, &std::sync::Mutex::new(()));
    Ok(())
}
