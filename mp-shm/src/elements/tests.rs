//! What holds for arrays with and without a lock alike.

use std::fmt::Debug;

use bytemuck::Zeroable;
use mp_core::message::Message;
use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::*;
use crate::{Array, RawArray};

/// What both kinds of array can do.
trait Row<T: Pod>: Clone + PartialEq + Serialize + DeserializeOwned {
    fn zeroed(length: usize) -> Result<Self>;
    fn from_slice(values: &[T]) -> Result<Self>;
    fn len(&self) -> usize;
    fn get(&self, index: usize) -> Result<T>;
    fn set(&self, index: usize, value: T) -> Result<()>;
    fn copy_to_slice(&self, index: usize, values: &mut [T]) -> Result<()>;
    fn copy_from_slice(&self, index: usize, values: &[T]) -> Result<()>;
    fn values(&self) -> Vec<T>;
}

macro_rules! row {
    ($kind:ident, $values:expr) => {
        impl<T: Pod> Row<T> for $kind<T> {
            fn zeroed(length: usize) -> Result<Self> {
                $kind::zeroed(length)
            }
            fn from_slice(values: &[T]) -> Result<Self> {
                $kind::from_slice(values)
            }
            fn len(&self) -> usize {
                self.len()
            }
            fn get(&self, index: usize) -> Result<T> {
                self.get(index)
            }
            fn set(&self, index: usize, value: T) -> Result<()> {
                self.set(index, value)
            }
            fn copy_to_slice(&self, index: usize, values: &mut [T]) -> Result<()> {
                self.copy_to_slice(index, values)
            }
            fn copy_from_slice(&self, index: usize, values: &[T]) -> Result<()> {
                self.copy_from_slice(index, values)
            }
            fn values(&self) -> Vec<T> {
                $values(self)
            }
        }
    };
}
row!(Array, |array: &Array<T>| array.to_vec().unwrap());
row!(RawArray, RawArray::to_vec);

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Point {
    x: i32,
    y: f32,
    id: [u8; 4],
}

#[test]
fn elements_of_every_size_and_alignment() {
    fn check_one<T: Pod + PartialEq + Debug, R: Row<T>>(values: &[T]) {
        let array = R::from_slice(values).unwrap();
        assert_eq!((array.len(), array.values()), (values.len(), values.to_vec()));
        let copy: R = Message::encode(&array).unwrap().decode().unwrap();
        assert!(copy == array && copy.clone() == array);
        for (index, value) in values.iter().rev().enumerate() {
            copy.set(index, *value).unwrap();
            assert_eq!(array.get(index).unwrap(), *value);
        }
        let zeroed = R::zeroed(3).unwrap();
        assert_eq!(zeroed.values(), [T::zeroed(); 3]);
        assert!(zeroed != array);
    }
    fn check<T: Pod + PartialEq + Debug>(values: &[T]) {
        check_one::<T, Array<T>>(values);
        check_one::<T, RawArray<T>>(values);
    }
    check(&[1_u8, 2, 255]);
    check(&[1_u16, 2, u16::MAX]);
    check(&[-1_i32, 2, i32::MIN]);
    check(&[f64::MAX, -0.0, 1.5]);
    check(&[u128::MAX, 1, 1 << 64]);
    check(&[[1_u8; 3], [2; 3], [3; 3]]);
    check(&[Point { x: -1, y: 2.5, id: *b"a\0c " }; 5]);
    check(&[(); 4]);
    check::<u64>(&[]);
    check(&(0..100_000).collect::<Vec<u32>>());
}

#[test]
fn errors_name_index_and_length() {
    fn check<R: Row<u32>, L: Row<u64>>() {
        let array = R::zeroed(10).unwrap();
        let error = array.get(10).unwrap_err().to_string();
        assert!(error.contains("length 10 has no index 10"), "{error}");
        assert!(matches!(array.set(usize::MAX, 1), Err(Error::OutOfBounds { index: usize::MAX, .. })));
        assert!(matches!(array.copy_from_slice(8, &[1, 2, 3]), Err(Error::OutOfBounds { index: 10, .. })));
        assert!(array.copy_to_slice(10, &mut []).is_ok() && array.copy_to_slice(11, &mut []).is_err());
        assert_eq!(array.values(), [0; 10]);
        for length in [usize::MAX / 8, usize::MAX] {
            assert!(matches!(L::zeroed(length), Err(Error::Invalid { .. })));
        }
    }
    check::<Array<u32>, Array<u64>>();
    check::<RawArray<u32>, RawArray<u64>>();
}

#[test]
fn other_element_types_are_refused() {
    fn check<I: Row<u32>, F: Row<f32>, L: Row<u64>, B: Row<[u8; 4]>>() {
        let send = || Message::encode(&I::zeroed(10).unwrap()).unwrap();
        assert!(send().decode::<F>().is_ok(), "any bytes are plain data");
        assert!(send().decode::<L>().is_err());
        let error = send().decode::<B>().err().unwrap().to_string();
        assert!(error.contains("aligned to 4") && error.contains("[u8; 4]"), "{error}");
    }
    check::<Array<u32>, Array<f32>, Array<u64>, Array<[u8; 4]>>();
    check::<RawArray<u32>, RawArray<f32>, RawArray<u64>, RawArray<[u8; 4]>>();
}

#[test]
fn what_lies_outside_of_its_memory_is_refused() {
    let region = Region::new("short", 64).unwrap();
    let send = |length: usize| Message::encode(&(Layout::of::<u32>(), &region, length)).unwrap();
    assert!(send(16).decode::<Elements<u32>>().is_ok());
    for length in [17, usize::MAX, usize::MAX / 4 + 2] {
        let error = send(length).decode::<Elements<u32>>().err().unwrap().to_string();
        assert!(error.contains("outside of their memory"), "{error}");
    }
    // A block of 16 bytes is not aligned for all that would fit into it.
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C, align(64))]
    struct Strict([u8; 64]);
    let blocks: Vec<Region> = (0..4).map(|_| Region::new("short", 16).unwrap()).collect();
    let send = |block| Message::encode(&(Layout::of::<Strict>(), block, 0_usize)).unwrap();
    assert!(blocks.iter().any(|block| send(block).decode::<Elements<Strict>>().is_err()));
}

proptest! {
    #[test]
    fn as_a_vector(
        mut model in prop::collection::vec(any::<u16>(), 0..50),
        steps in prop::collection::vec((0..60_usize, prop::collection::vec(any::<u16>(), 0..20)), 0..20),
    ) {
        let array = Array::from_slice(&model).unwrap();
        let raw = RawArray::from_slice(&model).unwrap();
        for (index, values) in steps {
            let wrote = array.copy_from_slice(index, &values).is_ok();
            prop_assert_eq!(wrote, raw.copy_from_slice(index, &values).is_ok());
            let there = model.get_mut(index..index + values.len());
            prop_assert_eq!(wrote, there.is_some());
            if let Some(there) = there {
                there.copy_from_slice(&values);
                let (mut read, mut raw_read) = (values.clone(), values.clone());
                array.copy_to_slice(index, &mut read).unwrap();
                raw.copy_to_slice(index, &mut raw_read).unwrap();
                prop_assert_eq!((&read, &raw_read), (&values, &values));
            }
        }
        prop_assert_eq!(array.to_vec().unwrap(), &model[..]);
        prop_assert_eq!(raw.to_vec(), model);
    }
}
