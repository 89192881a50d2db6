//! The worker: takes tasks off its link, one at a time, and sends what becomes of them.
//!
//! Killed at any instruction, it leaves behind an exact account of what it had taken (see [`mp_core::link`]). When the
//! parent dies, the worker dies with it, by its lifeline.

use std::os::fd::OwnedFd;

use mp_context::catch;
use mp_core::connection::Connection;
use mp_core::deadline::Deadline;
use mp_core::function::{Many, PreparedFunction, Remote};
use mp_core::handle::Handle;
use mp_core::link::{ResultHeader, TaskHeader, WorkerHalf, WorkerSide};
use mp_core::message::{Fds, Message};
use mp_core::{Error, Result, codec, parcel};

use crate::wire::{FUNCTIONS, Failure, LONGEST_BODY, RESULT_FILE, next_part, push_part, status, task};

/// Main function of a worker process.
pub(crate) fn run(half: WorkerHalf, socket: Connection, bell: Handle<OwnedFd>) {
    let outcome = half.into_worker_side().and_then(|link| {
        let functions = std::array::from_fn(|_| None);
        Worker { link, socket, bell: bell.into_inner(), functions, result: Vec::new() }.work()
    });
    if let Err(error) = outcome {
        // The parent sees the exit code, and deals with what was taken.
        mp_context::exit(format!("worker {}: {error}", mp_context::current_process().name()));
    }
}

struct Worker {
    link: WorkerSide,
    socket: Connection,
    /// Wakes the parent.
    bell: OwnedFd,
    /// The functions it knows, with their numbers; one that cannot be called here with the reason.
    functions: [Option<(u32, Result<PreparedFunction, String>)>; FUNCTIONS],
    /// The result being made; kept so that its memory is used again.
    result: Vec<u8>,
}

impl Worker {
    fn work(&mut self) -> Result<()> {
        loop {
            // After a burst it wakes up once more to give memory back.
            let look_again = if self.link.has_grown() { self.link.trim(Deadline::now())? } else { None };
            let Some(task) = self.link.next(look_again)? else { continue };
            let header = task.header;
            if header.flags & task::STOP != 0 {
                return Ok(());
            }
            let mut fds = receive_fds(&self.socket, header)?;
            self.result.clear();
            let mut result_fds = Fds::new();
            let file;
            let body = if header.flags & task::FILE != 0 {
                file = parcel::load(&mut fds)?;
                &file
            } else {
                task.body
            };
            let status = if header.flags & task::DEFINE != 0 {
                self.functions[header.function as usize % FUNCTIONS] =
                    Some((header.function, define(body, &mut fds)));
                status::VALUE
            } else {
                let function = match &mut self.functions[header.function as usize % FUNCTIONS] {
                    Some((number, function)) if *number == header.function => function,
                    _ => {
                        return Err(Error::Invalid {
                            what: "task",
                            reason: "its function is not known".into(),
                        });
                    }
                };
                run_task(function, header, body, &mut fds, &mut self.result, &mut result_fds)
            };
            self.send(header.id, status, result_fds)?;
        }
    }

    fn send(&mut self, id: u64, status: u32, mut fds: Fds) -> Result<()> {
        let mut header = ResultHeader { id, status, ..ResultHeader::default() };
        if self.result.len() > LONGEST_BODY {
            match parcel::store(&self.result) {
                Ok(file) => {
                    fds.attach(file.into());
                    // The memory, too: such results are rare.
                    self.result = Vec::new();
                    header.flags |= RESULT_FILE;
                }
                Err(error) => {
                    header.status = status::FAILED;
                    self.result.clear();
                    codec::encode_value(&Failure::Result(error.to_string()), &mut self.result)?;
                    fds = Fds::new();
                }
            }
        }
        header.fds = fds.len() as u32;
        if !fds.is_empty() {
            self.socket.send_message(Message { bytes: id.to_le_bytes().to_vec(), fds })?;
        }
        if self.link.send(header, &[&self.result], None)? {
            // The counter cannot overflow, as every wake-up of the parent empties it.
            rustix::io::write(&self.bell, &1u64.to_ne_bytes())
                .map_err(|error| Error::io("ringing the bell", error))?;
        }
        Ok(())
    }
}

/// The descriptors of a task.
fn receive_fds(socket: &Connection, header: TaskHeader) -> Result<Fds> {
    if header.fds == 0 {
        return Ok(Fds::new());
    }
    let message = socket.recv_message()?;
    if message.bytes != header.id.to_le_bytes() {
        return Err(Error::Invalid { what: "task", reason: "its descriptors are those of another".into() });
    }
    // The pool keeps what the task carries: it may have to be given to another.
    Ok(message.fds.into_copy())
}

fn define(body: &[u8], fds: &mut Fds) -> Result<PreparedFunction, String> {
    let text = |error: Error| error.to_string();
    let mut rest = body;
    let (Some(remote), Some(captures)) = (next_part(&mut rest), next_part(&mut rest)) else {
        return Err("the function that was sent is cut off".into());
    };
    let remote: Remote<Many> = codec::decode_value(remote).map_err(text)?;
    let prepared = remote.resolve().and_then(|prepare| prepare(captures, fds));
    prepared.map_err(|error| format!("cannot take over the captured values of {}: {error}", remote.name()))
}

/// Runs a task into `result`, and returns its status.
fn run_task(
    function: &mut Result<PreparedFunction, String>,
    header: TaskHeader,
    body: &[u8],
    fds: &mut Fds,
    result: &mut Vec<u8>,
    result_fds: &mut Fds,
) -> u32 {
    let failure = match function {
        Err(reason) => Failure::Argument(reason.clone()),
        Ok(function) if header.flags & task::CHUNK == 0 => {
            match run_item(function, body, fds, result, result_fds) {
                Ok(()) => return status::VALUE,
                Err(failure) => failure,
            }
        }
        Ok(function) => match run_chunk(function, body, fds, result, result_fds) {
            Ok(()) => return status::VALUE,
            Err(failure) => match push_part(result, |result| codec::encode_value(&failure, result)) {
                Ok(()) => return status::CUT_SHORT,
                Err(error) => Failure::Result(error.to_string()),
            },
        },
    };
    result.clear();
    *result_fds = Fds::new();
    if let Err(error) = codec::encode_value(&failure, result) {
        eprintln!("worker {}: {error}", mp_context::current_process().name());
    }
    status::FAILED
}

/// Runs the items of a chunk into `result`, up to the first that fails: then the values of those before it are there.
fn run_chunk(
    function: &mut PreparedFunction,
    mut items: &[u8],
    fds: &mut Fds,
    result: &mut Vec<u8>,
    result_fds: &mut Fds,
) -> Result<(), Failure> {
    while let Some(item) = next_part(&mut items) {
        let (whole, mark) = (result.len(), result_fds.mark());
        let mut outcome = Ok(());
        let pushed = push_part(result, |result| {
            outcome = run_item(function, item, fds, result, result_fds);
            Ok(())
        });
        if let Err(failure) = outcome.and(pushed.map_err(|error| Failure::Result(error.to_string()))) {
            result.truncate(whole);
            // A panic may have left some behind.
            result_fds.truncate(mark);
            return Err(failure);
        }
    }
    Ok(())
}

fn run_item(
    function: &mut PreparedFunction,
    item: &[u8],
    fds: &mut Fds,
    result: &mut Vec<u8>,
    result_fds: &mut Fds,
) -> Result<(), Failure> {
    match catch(|| function(item, fds, result, result_fds)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ Error::Encode { .. })) => Err(Failure::Result(error.to_string())),
        Ok(Err(error)) => Err(Failure::Argument(error.to_string())),
        Err(report) => Err(Failure::Panicked(report)),
    }
}
