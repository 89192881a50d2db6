//! Tasks on their way into a link: the function before the first task of a call, descriptors in the socket beside it.
//!
//! Nothing here waits for a worker: one that is dead or stopped simply takes nothing, and one with descriptors on the way
//! gets nothing else.

use std::time::Duration;

use mp_core::link::TaskHeader;
use mp_core::message::{Fds, Message};
use mp_core::parcel;

use super::active::{Active, join};
use crate::member::Member;
use crate::wire::{FUNCTIONS, LONGEST_BODY, task};

/// How long the descriptors of one task may take through the socket.
pub(super) const SOCKET_LIMIT: Duration = Duration::from_secs(5);

/// Puts a task into a link, after its function if that is not known there; false if there is no room.
pub(super) fn give(member: &mut Member, active: &Active, task: usize) -> mp_core::Result<bool> {
    let job = &*active.job;
    let place = active.number as usize % FUNCTIONS;
    if member.defined[place] != Some(active.number) {
        let flags = task::DEFINE;
        // No task has this id: a call has fewer tasks.
        let id = join(active.number, u32::MAX);
        let header = TaskHeader { id, function: active.number, flags, ..TaskHeader::default() };
        if !push(member, header, &job.function.definition, &job.function.fds)? {
            return Ok(false);
        }
        member.defined[place] = Some(active.number);
    }
    let flags = if job.chunk == 1 { 0 } else { task::CHUNK };
    let id = join(active.number, task as u32);
    push(member, TaskHeader { id, function: active.number, flags, fds: 0 }, job.body(task), job.fds(task))
}

/// Puts something into a link, its descriptors into the socket beside it.
fn push(member: &mut Member, mut header: TaskHeader, body: &[u8], fds: &Fds) -> mp_core::Result<bool> {
    if member.alone {
        return Ok(false);
    }
    if fds.is_empty() && body.len() <= LONGEST_BODY {
        return member.link.tasks.try_push(header, &[body]);
    }
    if member.outstanding() > 0 {
        return Ok(false);
    }
    let mut table = Fds::new();
    fds.iter().for_each(|fd| _ = table.attach(fd.clone()));
    let mut inline = body;
    if body.len() > LONGEST_BODY {
        table.attach(parcel::store(body)?.into());
        header.flags |= task::FILE;
        inline = &[];
    }
    header.fds = table.len() as u32;
    if !member.link.tasks.try_push(header, &[inline])? {
        return Ok(false);
    }
    let message = Message { bytes: header.id.to_le_bytes().to_vec(), fds: table };
    if let Err(error) = member.socket.send_message_timeout(message, SOCKET_LIMIT) {
        // The worker has not seen it: it was not published, and it is the only one.
        drop(member.link.tasks.revoke()?);
        let is_dead = member.process().is_none_or(|process| process.done());
        // Of the dead nothing is expected; their end is dealt with in its own time.
        return if is_dead { Ok(false) } else { Err(error) };
    }
    member.alone = true;
    Ok(true)
}
