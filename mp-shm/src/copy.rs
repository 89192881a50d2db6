//! Copies of shared objects that are shared objects of their own.

use bytemuck::Pod;

use crate::{Array, RawArray, RawValue, Result, Value};

mod sealed {
    pub trait Sealed {}
}

/// Shared objects that [`copy`] can copy.
pub trait Copied: Sized + sealed::Sealed {
    #[doc(hidden)]
    fn copied(&self) -> Result<Self>;
}

/// A new shared object with what is in `object` now, and from now on independent of it.
///
/// A [`Value`] or [`Array`] is read under its lock; the copy has a lock of its own. (A clone would be another handle to the
/// same object.) Follows `multiprocessing.sharedctypes.copy`.
///
/// # Errors
/// [`Error::Core`](crate::Error::Core) when memory does not suffice.
///
/// ```
/// use mp_shm::{Value, copy};
///
/// let value = Value::new(2.5)?;
/// let kept = copy(&value)?;
/// value.set(0.0)?;
/// assert_eq!(kept.get()?, 2.5);
/// # Ok::<(), mp_shm::Error>(())
/// ```
pub fn copy<O: Copied>(object: &O) -> Result<O> {
    object.copied()
}

impl<T> sealed::Sealed for Value<T> {}
impl<T: Pod> Copied for Value<T> {
    fn copied(&self) -> Result<Value<T>> {
        Value::new(self.get()?)
    }
}

impl<T> sealed::Sealed for Array<T> {}
impl<T: Pod> Copied for Array<T> {
    fn copied(&self) -> Result<Array<T>> {
        let copy = Array::zeroed(self.len())?;
        // Nobody else has the copy, so its lock is free.
        self.copy_to_slice(0, &mut copy.lock()?)?;
        Ok(copy)
    }
}

impl<T> sealed::Sealed for RawValue<T> {}
impl<T: Pod> Copied for RawValue<T> {
    fn copied(&self) -> Result<RawValue<T>> {
        RawValue::new(self.get())
    }
}

impl<T> sealed::Sealed for RawArray<T> {}
impl<T: Pod> Copied for RawArray<T> {
    fn copied(&self) -> Result<RawArray<T>> {
        RawArray::from_slice(&self.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_goes_its_own_way() {
        let array = Array::from_slice(&[1, 2, 3]).unwrap();
        let raw = (RawValue::new(7).unwrap(), RawArray::from_slice(&[1, 2]).unwrap());
        let copies = (copy(&array).unwrap(), copy(&raw.0).unwrap(), copy(&raw.1).unwrap());
        array.lock().unwrap().fill(0);
        raw.0.set(0);
        raw.1.set(0, 0).unwrap();
        assert!(copies.0 != array && copies.0.get_lock() != array.get_lock());
        assert_eq!(*copies.0.lock().unwrap(), [1, 2, 3]);
        assert_eq!((copies.1.get(), copies.2.to_vec()), (7, vec![1, 2]));
        assert!(copy(&Array::<u8>::zeroed(0).unwrap()).unwrap().is_empty());
    }
}
