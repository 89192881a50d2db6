//! Waiting for a shared word from async code, on any executor.
//!
//! One background thread for each process, started by the first `await` that has to wait, sleeps on all the words and
//! wakes wakers. It holds nothing that another process could know; a forked child, which has no such thread, starts
//! its own. A wait ends by itself after a while, so that its caller looks whether the one it waits for is alive.
//!
//! # Design
//!
//! The thread sleeps in `futex_waitv` on a word of its own, by which it is told of new waits, and on the words of the
//! oldest waits. What does not fit, and everything where the kernel has no such call, is looked at every few
//! milliseconds instead. A wait keeps the owner of its word, and so does the thread while it sleeps on it.
//!
//! The kernel gives a wake-up to one sleeper and forgets it. So one that reached a wait which is no longer there, or
//! whose future is dropped before it was polled, is passed on: to another wait of this process, or to the
//! kernel's next sleeper. The kernel names but one of the words that it woke up for, the last; those before it count
//! as perhaps woken, and what is passed on for nothing does no harm: every waiter looks at the word again.
//!
//! The table of waits is locked for a moment only, and never while a waker or an owner runs code of its own.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::helper_thread;
use crate::deadline::Deadline;
use crate::futex::{AnyResult, AtomicU32, MOST_WORDS, Ordering::*, wait, wait_any, wake, wake_all};
use crate::liveness::ProcessId;
use crate::{Error, Result};

/// After this time a wait is over in any case.
const SLICE: Duration = Duration::from_millis(50);
/// How often words are looked at that the kernel does not watch.
const LOOK: Duration = Duration::from_millis(2);

/// A word, and what keeps it where it is.
#[derive(Clone)]
struct Word {
    /// Never borrowed mutably, and dropped after the last use of `at`.
    _owner: Arc<dyn Any + Send + Sync>,
    at: NonNull<AtomicU32>,
}

// SAFETY: `at` is a shared reference in all but name, to an atomic number that the owner, which is `Send` and `Sync`,
// keeps alive.
unsafe impl Send for Word {}
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Word {
    fn get(&self) -> &AtomicU32 {
        // SAFETY: the reference that `word` borrowed from the owner, which stays in its `Arc`, neither moved nor borrowed
        // mutably, for as long as this value lives.
        unsafe { self.at.as_ref() }
    }

    fn is(&self, expected: u32) -> bool {
        self.get().load(Acquire) == expected
    }
}

/// The waits of this process, or of the one it was forked from.
static WORDS: Mutex<Option<Arc<Words>>> = Mutex::new(None);

struct Words {
    process: u32,
    waits: Mutex<Waits>,
    /// Counts the news for the thread, which sleeps on it.
    news: AtomicU32,
}

#[derive(Default)]
struct Waits {
    next: u64,
    /// The oldest come first.
    known: BTreeMap<u64, Wait>,
}

struct Wait {
    word: Word,
    expected: u32,
    until: Deadline,
    /// Who is to be told; none once it was.
    waker: Option<Waker>,
    /// Perhaps a wake-up was used up for it.
    woken: bool,
}

impl Waits {
    /// Hands a wake-up for the word to another wait; none if it has none here.
    fn pass_on(&mut self, word: &Word) -> Option<Waker> {
        let next = self.known.values_mut().find(|wait| wait.waker.is_some() && wait.word.at == word.at)?;
        next.woken = true;
        next.waker.take()
    }
}

impl Words {
    fn get() -> Result<Arc<Words>> {
        let mut current = lock(&WORDS);
        let process = ProcessId::current().pid();
        if let Some(words) = current.as_ref().filter(|words| words.process == process) {
            return Ok(words.clone());
        }
        let words = Arc::new(Words { process, waits: Mutex::default(), news: AtomicU32::new(0) });
        let thread = words.clone();
        let builder = std::thread::Builder::new().name("mp-words".into()).stack_size(256 << 10);
        helper_thread(builder, move || thread.run())
            .map_err(|error| Error::io("starting the thread of async waits for shared words", error))?;
        // The parent's waits stay where they are: its thread may have been in the middle of them.
        std::mem::forget(current.replace(words.clone()));
        Ok(words)
    }

    fn run(&self) {
        let mut round = Vec::new();
        let mut wakers = Vec::new();
        loop {
            let news = self.news.load(Acquire);
            // May drop owners, which is foreign code.
            let _ = catch_unwind(AssertUnwindSafe(|| round.clear()));
            let deadline = self.collect(&mut round);
            let outcome = self.sleep(news, &round, deadline);
            self.settle(outcome, &round, &mut wakers);
            // A waker is foreign code: its panic must not end the waits of the others.
            for waker in wakers.drain(..) {
                let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
            }
        }
    }

    /// The oldest waits, as many as the kernel takes, and when to look at all of them again.
    fn collect(&self, round: &mut Vec<(u64, Word, u32)>) -> Option<Deadline> {
        let waits = lock(&self.waits);
        let mut waiting = waits.known.iter().filter(|(_, wait)| wait.waker.is_some());
        let mut deadline = None;
        for (&key, wait) in waiting.by_ref().take(MOST_WORDS - 1) {
            deadline = Some(deadline.map_or(wait.until, |deadline: Deadline| deadline.min(wait.until)));
            round.push((key, wait.word.clone(), wait.expected));
        }
        if waiting.next().is_some() {
            deadline = Some(Deadline::within(deadline, LOOK));
        }
        deadline
    }

    fn sleep(&self, news: u32, round: &[(u64, Word, u32)], deadline: Option<Deadline>) -> AnyResult {
        let mut words = vec![(&self.news, news)];
        words.extend(round.iter().map(|(_, word, expected)| (word.get(), *expected)));
        let outcome = wait_any(&words, deadline);
        if outcome == AnyResult::Refused {
            wait(&self.news, news, deadline.map(|deadline| Deadline::within(Some(deadline), LOOK)));
        }
        outcome
    }

    /// Ends the waits that are over, and passes on the wake-ups of those that are gone.
    fn settle(&self, outcome: AnyResult, round: &[(u64, Word, u32)], wakers: &mut Vec<Waker>) {
        // The first word is the thread's own.
        let woken = if let AnyResult::Woken(last) = outcome { last } else { 0 };
        let now = Deadline::now();
        let mut elsewhere = Vec::new();
        let mut waits = lock(&self.waits);
        for (position, (key, word, _)) in (1..).zip(round).take(woken) {
            match waits.known.get_mut(key) {
                Some(wait) => {
                    wait.woken = true;
                    if position == woken {
                        wakers.extend(wait.waker.take());
                    }
                }
                None => match waits.pass_on(word) {
                    Some(waker) => wakers.push(waker),
                    None => elsewhere.push(word),
                },
            }
        }
        for wait in waits.known.values_mut() {
            if wait.until <= now || !wait.word.is(wait.expected) {
                wakers.extend(wait.waker.take());
            }
        }
        drop(waits);
        for word in elsewhere {
            wake(word.get(), 1);
        }
    }

    /// Tells the thread to look at the table.
    fn tell(&self) {
        self.news.fetch_add(1, Release);
        wake_all(&self.news);
    }

    fn register(&self, word: Word, expected: u32, waker: Waker) -> u64 {
        let wait = Wait { word, expected, until: Deadline::after(SLICE), waker: Some(waker), woken: false };
        let mut waits = lock(&self.waits);
        let key = waits.next;
        waits.next += 1;
        waits.known.insert(key, wait);
        drop(waits);
        self.tell();
        key
    }

    /// Tells `waker` from now on; false if the wait is over.
    fn exchange(&self, key: u64, waker: Waker) -> bool {
        let mut waits = lock(&self.waits);
        let before = match waits.known.get_mut(&key) {
            Some(Wait { waker: before @ Some(_), .. }) => before.replace(waker),
            _ => return false,
        };
        drop(waits);
        drop(before);
        true
    }

    /// Ends a wait; `used` if its future makes use of a wake-up that it got.
    fn forget(&self, key: u64, used: bool) {
        let mut waits = lock(&self.waits);
        let Some(wait) = waits.known.remove(&key) else { return };
        let lost = wait.woken && !used;
        let next = if lost { waits.pass_on(&wait.word) } else { None };
        drop(waits);
        match next {
            Some(waker) => waker.wake(),
            None if lost => drop(wake(wait.word.get(), 1)),
            None => {}
        }
        if wait.waker.is_some() {
            // So that it neither keeps the owner nor takes wake-ups for it.
            self.tell();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits, in async code on any executor, until `word` of `owner` is no longer `expected` or somebody wakes it.
///
/// `word` is asked once for a word that `owner` keeps in its place; `owner` lives until the wait is over. The future may
/// be ready without a cause, and is after some tens of milliseconds in any case: then look at the word again, and
/// whether the process that has to change it is alive, and wait anew. This is the async form of
/// [`futex::wait`](crate::futex::wait), for words that others change before they call [`futex::wake`](crate::futex::wake).
///
/// The first wait that is not over at once starts one thread in this process, which serves all of them. Dropping the
/// future ends the wait; a wake-up that it got and did not use goes to the next waiter.
///
/// # Errors
/// [`Error::Io`] when that thread cannot be started.
///
/// ```
/// # #[cfg(not(loom))] {
/// use mp_core::{futex::{AtomicU32, Ordering::*, wake_all}, wait::word_changed};
/// use std::sync::Arc;
///
/// /// Waits until `word` is 1.
/// async fn opened(word: Arc<AtomicU32>) -> mp_core::Result<()> {
///     loop {
///         match word.load(Acquire) {
///             1 => return Ok(()),
///             seen => word_changed(word.clone(), |word| word, seen).await?,
///         }
///     }
/// }
/// # }
/// ```
pub fn word_changed<O, F>(owner: O, word: F, expected: u32) -> WordChanged
where
    O: Send + Sync + 'static,
    F: FnOnce(&O) -> &AtomicU32,
{
    let owner = Arc::new(owner);
    let at = NonNull::from(word(&owner));
    WordChanged { word: Word { _owner: owner, at }, expected, wait: None }
}

/// The future of [`word_changed`].
#[must_use = "futures do nothing unless awaited"]
pub struct WordChanged {
    word: Word,
    expected: u32,
    wait: Option<(Arc<Words>, u64)>,
}

impl WordChanged {
    fn forget(&mut self, used: bool) {
        let Some((words, key)) = self.wait.take() else { return };
        if words.process == ProcessId::current().pid() {
            words.forget(key, used);
        }
    }
}

impl Future for WordChanged {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let here = |words: &Words| words.process == ProcessId::current().pid();
        if self.word.is(self.expected) {
            match &self.wait {
                Some((words, key)) if here(words) => {
                    if words.exchange(*key, context.waker().clone()) {
                        return Poll::Pending;
                    }
                }
                // The first time, or the first in a forked child.
                _ => {
                    let words = match Words::get() {
                        Ok(words) => words,
                        Err(error) => return Poll::Ready(Err(error)),
                    };
                    let key = words.register(self.word.clone(), self.expected, context.waker().clone());
                    self.wait = Some((words, key));
                    return Poll::Pending;
                }
            }
        }
        self.forget(true);
        Poll::Ready(Ok(()))
    }
}

impl Drop for WordChanged {
    fn drop(&mut self) {
        self.forget(false);
    }
}

impl std::fmt::Debug for WordChanged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WordChanged").field("expected", &self.expected).finish_non_exhaustive()
    }
}
