//! No handle is taken for one to something else: what a process sends as a lock arrives as a lock or as an error.
//!
//! Whoever could have a lock as an event would change it behind the back of its guard.

use std::any::type_name;
use std::sync::{Mutex, PoisonError};

use mp_core::arena::{Arena, Block};
use mp_core::connection::{Connection, pipe};
use mp_core::message::Message;
use mp_core::region::Region;
use mp_core::segment::Segment;
use multiprocess as mp;
use multiprocess::core as mp_core;
use multiprocess::{
    Array, Barrier, BoundedSemaphore, Condition, Event, JoinableQueue, Lock, Queue, RLock, RawArray,
    RawValue, Semaphore, ShareableList, SharedMemory, SharedSlice, SimpleQueue, Synchronized, Value,
};
use serde::de::DeserializeOwned;

/// A damaged index may be that of another block, whose count its message gives back: no other test has blocks meanwhile.
static ALONE: Mutex<()> = Mutex::new(());

type Attempt = (&'static str, fn(Message) -> Result<(), String>);

/// Whether a message can be decoded as a handle of this type.
fn as_a<T: DeserializeOwned>() -> Attempt {
    (type_name::<T>(), |message| message.decode::<T>().map(drop).map_err(|error| error.to_string()))
}

/// Something that is alive for as long as its messages are to be decoded, and a message with a handle to it.
type Sent = (&'static str, Box<dyn Fn() -> Message>);

fn sent<T: serde::Serialize + 'static>(handle: T) -> Sent {
    let encode = move || Message::encode(&handle).expect("a message");
    (type_name::<T>(), Box::new(encode))
}

fn handles() -> mp::shm::Result<Vec<Sent>> {
    let mut handles = vec![
        sent(Lock::new()?),
        sent(RLock::new()?),
        sent(Semaphore::new(2)?),
        sent(BoundedSemaphore::new(2)?),
        sent(Condition::new()?),
        sent(Event::new()?),
        sent(Barrier::new(2)?),
        sent(Value::new(7_u32)?),
        sent(Value::new(7_u64)?),
        sent(Value::with_lock(7_u64, &Lock::new()?)?),
        sent(Array::from_slice(&[7_u64])?),
        sent(Array::from_slice(&[7_u64; 1000])?),
        sent(RawValue::new(7_u64)?),
        sent(RawArray::from_slice(&[7_u64])?),
        sent(RawArray::from_slice(&[7_u64; 1000])?),
        sent(mp::synchronized(RawValue::new(7_u64)?, &RLock::new()?)),
        sent(SharedSlice::from_slice(&[7_u64])?),
        sent(SharedMemory::create_unnamed(64)?),
        sent(ShareableList::new([7])?),
        sent(Arena::global().alloc(64, 8)?),
        sent(Region::new("some", 64)?),
        sent(Region::new("more", 5000)?),
        sent(Segment::create("all", 5000)?),
    ];
    handles.extend([
        sent(pipe().expect("a pipe").0),
        sent(Queue::<u64>::bounded(2).expect("a queue")),
        sent(JoinableQueue::<u64>::bounded(2).expect("a queue")),
        sent(SimpleQueue::<u64>::new().expect("a queue")),
    ]);
    Ok(handles)
}

#[test]
fn no_handle_is_taken_for_another() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let attempts = [
        as_a::<Lock>(),
        as_a::<RLock>(),
        as_a::<Semaphore>(),
        as_a::<BoundedSemaphore>(),
        as_a::<Condition>(),
        as_a::<Event>(),
        as_a::<Barrier>(),
        as_a::<Value<u32>>(),
        as_a::<Value<u64>>(),
        as_a::<Array<u64>>(),
        as_a::<RawValue<u64>>(),
        as_a::<RawArray<u64>>(),
        as_a::<Synchronized<RawValue<u64>, RLock>>(),
        as_a::<Synchronized<RawValue<u64>, Lock>>(),
        as_a::<Synchronized<RawArray<u64>, RLock>>(),
        as_a::<SharedSlice<u64>>(),
        as_a::<SharedMemory>(),
        as_a::<ShareableList>(),
        as_a::<Block>(),
        as_a::<Region>(),
        as_a::<Segment>(),
        as_a::<Connection>(),
        as_a::<Queue<u64>>(),
        as_a::<JoinableQueue<u64>>(),
        as_a::<SimpleQueue<u64>>(),
    ];
    // A list lies in a block, which has the same name; a simple queue is a queue with few methods.
    let same = [
        (type_name::<ShareableList>(), type_name::<SharedMemory>()),
        (type_name::<SimpleQueue<u64>>(), type_name::<Queue<u64>>()),
        (type_name::<Queue<u64>>(), type_name::<SimpleQueue<u64>>()),
    ];
    let mut wrong = Vec::new();
    for (name, encode) in handles().expect("handles") {
        for (wanted, decode) in &attempts {
            let is_fine = name == *wanted || same.contains(&(name, *wanted));
            match decode(encode()) {
                Ok(()) if !is_fine => wrong.push(format!("{name} arrived as {wanted}")),
                Err(error) if is_fine => wrong.push(format!("{name} is refused: {error}")),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Messages in which some bytes are others: an error, or a handle to something that is there, and nothing worse.
#[test]
fn hostile_bytes_are_an_error_or_a_handle() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 20) as usize % limit
    };
    fn look<T: std::fmt::Debug + DeserializeOwned>(message: Message) -> bool {
        message.decode::<T>().is_ok_and(|handle| !format!("{handle:?}").is_empty())
    }
    let handles = handles().expect("handles");
    // Counts enough for all that damaged messages give back of the blocks of others.
    for (_, encode) in handles.iter().take(17) {
        (0..2000).for_each(|_| std::mem::forget(encode()));
    }
    let (mut refused, mut untouched) = (0, 0);
    for round in 0..60_000 {
        let mut message = (handles[round % handles.len()].1)();
        let changes = below(4);
        for _ in 0..changes {
            let at = below(message.bytes.len());
            match below(3) {
                0 => message.bytes[at] = below(256) as u8,
                1 => message.bytes[at] ^= 1 << below(8),
                _ => message.bytes.truncate(at.max(1)),
            }
        }
        let looks: [fn(Message) -> bool; 17] = [
            look::<Lock>,
            look::<RLock>,
            look::<Semaphore>,
            look::<BoundedSemaphore>,
            look::<Condition>,
            look::<Event>,
            look::<Barrier>,
            look::<Value<u32>>,
            look::<Value<u64>>,
            look::<Value<u64>>,
            look::<Array<u64>>,
            look::<Array<u64>>,
            look::<RawValue<u64>>,
            look::<RawArray<u64>>,
            look::<RawArray<u64>>,
            look::<Synchronized<RawValue<u64>, RLock>>,
            look::<SharedSlice<u64>>,
        ];
        let kind = round % handles.len();
        let is_taken = looks[kind.min(looks.len() - 1)](message);
        refused += u32::from(!is_taken);
        if changes == 0 && kind < looks.len() {
            assert!(is_taken, "{} is refused as it was sent", handles[kind].0);
            untouched += 1;
        }
    }
    assert!(refused > 10_000 && untouched > 1_000, "{refused} are refused, {untouched} are untouched");
}

#[test]
fn the_error_says_what_came_instead() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let message = Message::encode(&RLock::new().expect("a lock")).expect("a message");
    let error = message.decode::<Lock>().expect_err("another kind").to_string();
    assert!(error.contains("RLock") && error.contains("expected `Lock`"), "{error}");
}
