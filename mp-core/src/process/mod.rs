//! Making a process run a function of this program, and knowing when it ends: the mechanisms below `mp-context`.
//!
//! Three ways lead to a child: [`spawn`] starts the program anew (its [`entry`] turns it into a child before `main`),
//! [`fork`] copies this process. Each child holds a [`lifeline`] to its parent, so it never outlives it, and is known
//! to its parent by a [`pidfd`], so that no signal or wait ever hits a recycled pid.

pub mod entry;
pub mod environment;
pub mod exit;
pub mod fork;
pub mod lifeline;
pub mod name;
pub mod pidfd;
pub mod signal;
pub mod spawn;
