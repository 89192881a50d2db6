//! What the last party to arrive does before anybody passes.
//!
//! It belongs to no process: the handle of the barrier carries the place of its code, as any function that travels.

use std::fmt;

use mp_core::function::{Once, Remote};
use mp_core::message::{Fds, decode_from};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the action of a [`Barrier`](super::Barrier) may return: nothing, or a `Result` without a value.
#[diagnostic::on_unimplemented(
    message = "the action of a barrier cannot return `{Self}`",
    note = "it returns nothing, or `Result<(), E>` with an error that can be displayed"
)]
pub trait ActionResult {
    /// Why it failed, if it did.
    ///
    /// # Errors
    /// The error, as text.
    fn into_result(self) -> Result<(), String>;
}

impl ActionResult for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display> ActionResult for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        // With the causes, where the error shows them so.
        self.map_err(|error| format!("{error:#}"))
    }
}

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Action(Remote<Once>);

impl Action {
    pub(super) fn new<R: ActionResult>(action: impl Fn() -> R) -> Action {
        // This closure has no bytes either, if the action has none.
        Action(Remote::call(move || action().into_result()))
    }

    /// A panic in it goes on to the caller.
    pub(super) fn run(&self) -> Result<()> {
        let (mut bytes, mut fds) = (Vec::new(), Fds::new());
        self.0.resolve()?(&[], &mut Fds::new())?(&mut bytes, &mut fds)?;
        decode_from::<Result<(), String>>(&bytes, &mut fds)?.map_err(|reason| Error::Action { reason })
    }
}
