//! Carrying a task out on the calling thread.

use std::io;

use reprise_types::PoolBuf;

use crate::op::{Action, Next, Task};
use crate::{Durability, Media, sys};

/// Runs a task to its end.
pub(crate) fn run(task: &mut Task) -> io::Result<()> {
    loop {
        let result = call(task).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO));
        if let Next::Done(result) = task.step(result) {
            result?;
            if task.action == Action::Write(Durability::ThenSync) {
                task.media.sync_blocking()?;
            }
            return task.spoiled.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)));
        }
    }
}

fn call(task: &mut Task) -> io::Result<usize> {
    let fd = task.media.fd();
    match task.action {
        Action::Write(durability) => {
            let flags = if durability == Durability::Dsync { libc::RWF_DSYNC } else { 0 };
            // SAFETY: the vectors point into memory that the task keeps alive.
            unsafe { sys::pwritev2(fd, task.vectors(), task.offset, flags) }
        }
        // SAFETY: the vectors point into a buffer that the task owns alone.
        Action::Read => unsafe { sys::preadv(fd, task.vectors(), task.offset) },
        Action::Sync => task.media.sync_blocking().map(|()| 0),
        Action::Fallocate { mode, len } => sys::fallocate(fd, mode, task.offset, len).map(|()| 0),
    }
}

/// The place in the file. A window ends where it ends; a whole medium is left to the kernel, which knows its end best.
fn place(media: &Media, offset: u64, len: usize) -> io::Result<u64> {
    let (align, len) = (u64::from(media.geometry().io_align), len as u64);
    if !offset.is_multiple_of(align) || !len.is_multiple_of(align) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    if media.is_window() && offset.checked_add(len).is_none_or(|end| end > media.size().get()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "beyond the end of the medium"));
    }
    offset.checked_add(media.base()).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

pub(crate) fn read(media: &Media, offset: u64, buf: &mut PoolBuf) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let offset = place(media, offset, buf.len())?;
    let mut done = 0;
    while done < buf.len() {
        match media.file().read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

pub(crate) fn write(media: &Media, offset: u64, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let offset = place(media, offset, bytes.len())?;
    let mem_align = media.geometry().mem_align as usize;
    if bytes.as_ptr().addr().is_multiple_of(mem_align) {
        return media.file().write_all_at(bytes, offset);
    }
    media.file().write_all_at(&PoolBuf::copy_from(bytes), offset)
}
