//! Carries out the engine's disk effects.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reprise_engine::{Effect, Event, IoFault, LegId, Token};
use reprise_format::superblock::{copies_of, group_copies};
use reprise_journal::segment_offset;
use reprise_media::{Chosen, Durability, Media, Op, Outcome};
use reprise_types::{Extent, PoolBuf, VolumeSlot};

use super::owner::Owner;
use crate::clock;

/// After a segment could not be prepared: a full file system is asked once in this time, not at every tick.
const SEGMENT_PAUSE_MILLIS: u64 = 2000;

fn fault(error: &io::Error) -> IoFault {
    IoFault::Disk(error.raw_os_error().unwrap_or(nix::libc::EIO))
}

fn outcome(o: Outcome) -> Result<Bytes, IoFault> {
    match (o.result, o.buf) {
        (Ok(()), Some(buf)) => Ok(buf.freeze()),
        (Ok(()), None) => Ok(Bytes::new()),
        (Err(e), _) => {
            tell_failed(&e);
            Err(fault(&e))
        }
    }
}

/// Every failure reaches the engine; of a disk that fails all the time the log has one line a second.
fn tell_failed(error: &io::Error) {
    thread_local! { static TOLD: Cell<Option<reprise_types::Mono>> = const { Cell::new(None) } }
    let now = clock::now().mono;
    if TOLD.get().is_none_or(|at| now.millis_since(at) >= 1000) {
        TOLD.set(Some(now));
        tracing::error!(%error, "disk operation failed");
    }
}

/// Answers a token once several operations are done.
struct Join {
    left: Cell<usize>,
    failed: RefCell<Option<IoFault>>,
}

impl Owner {
    /// Home of a volume, with the byte offset of the extent. This box opens one of each.
    fn home(&self, leg: LegId, extent: &Extent) -> Option<(Arc<Media>, u64)> {
        let media = self.look().homes.get(&extent.volume).filter(|_| leg == LegId::FIRST).cloned()?;
        Some((media, extent.sector.byte_offset()?))
    }

    fn submit(self: &Rc<Self>, token: Token, media: &Arc<Media>, op: Op) {
        let owner = self.clone();
        self.ring.submit(media, op, move |o| owner.done(token, outcome(o)));
    }

    /// Submits all and answers when the last is done.
    fn submit_all(self: &Rc<Self>, token: Token, ops: Vec<(Arc<Media>, Op)>) {
        if ops.is_empty() {
            self.done(token, Ok(Bytes::new()));
            return;
        }
        let join = Rc::new(Join { left: Cell::new(ops.len()), failed: RefCell::default() });
        for (media, op) in ops {
            let (owner, join) = (self.clone(), join.clone());
            self.ring.submit(&media, op, move |o| {
                if let Err(fault) = outcome(o) {
                    *join.failed.borrow_mut() = Some(fault);
                }
                join.left.set(join.left.get() - 1);
                if join.left.get() == 0 {
                    let failed = *join.failed.borrow();
                    owner.done(token, failed.map_or(Ok(Bytes::new()), Err));
                }
            });
        }
    }

    fn missing_home(self: &Rc<Self>, token: Token, volume: VolumeSlot) {
        tracing::error!(volume = volume.get(), "home is not open");
        self.done(token, Err(IoFault::Disk(nix::libc::ENODEV)));
    }

    pub(super) fn carry_out_disk(self: &Rc<Self>, effect: Effect) {
        let cache = &self.deps.cache;
        match effect {
            Effect::WriteCache { token, at, bufs } => {
                let chosen = self.state().durability.next(bufs.iter().map(Bytes::len).sum());
                let op = Op::Write { offset: at, bufs, durability: chosen.durability() };
                let (owner, start) = (self.clone(), Instant::now());
                self.ring.submit(cache, op, move |o| {
                    owner.wrote_durably(chosen, start.elapsed());
                    owner.done(token, outcome(o));
                });
            }
            Effect::WriteSuperblock { token, version, copy } => {
                let offsets = group_copies(self.slot);
                let durability = self.look().durability.preferred();
                let write = |i: usize| {
                    let op = Op::Write { offset: offsets[i], bufs: vec![copy.clone()], durability };
                    (cache.clone(), op)
                };
                self.submit_all(token, copies_of(version).map(write).into());
            }
            Effect::ReadCache { token, at, len } => self.read(token, cache, at, len),
            Effect::ReadHome { token, leg, extent } => match self.home(leg, &extent) {
                Some((media, at)) => self.read(token, &media, at, extent.sectors.bytes().get() as usize),
                None => self.missing_home(token, extent.volume),
            },
            Effect::WriteHome { token, leg, extent, bufs } => match self.home(leg, &extent) {
                Some((media, offset)) => {
                    self.submit(token, &media, Op::Write { offset, bufs, durability: Durability::None });
                }
                None => self.missing_home(token, extent.volume),
            },
            Effect::ZeroHome { token, leg, extent } => match self.home(leg, &extent) {
                Some((media, offset)) => {
                    let thin = self.look().group.meta().volume(extent.volume).is_some_and(|v| v.thin);
                    let len = extent.sectors.bytes().get();
                    let op = if thin { Op::Punch { offset, len } } else { Op::Zero { offset, len } };
                    self.submit(token, &media, op);
                }
                None => self.missing_home(token, extent.volume),
            },
            Effect::FlushHome { token, volumes, .. } => {
                let state = self.look();
                let ops = volumes.iter().filter_map(|v| Some((state.homes.get(v)?.clone(), Op::Sync))).collect();
                drop(state);
                self.submit_all(token, ops);
            }
            Effect::WantSegment => self.want_segment(),
            Effect::FreeSegments(segments) => {
                self.deps.allocator.free(&segments);
                self.changed.notify_waiters();
            }
            Effect::Reply(..) | Effect::Kept(..) => {}
            Effect::LinkSend(..) | Effect::LinkClose(..) | Effect::Notice(_) => {}
        }
    }

    fn wrote_durably(&self, chosen: Chosen, time: Duration) {
        let choice = &mut self.state().durability;
        let before = choice.preferred();
        choice.took(chosen, time);
        if choice.preferred() != before {
            tracing::debug!(group = %self.deps.name, %choice, "other way of writing durably");
        }
    }

    fn read(self: &Rc<Self>, token: Token, media: &Arc<Media>, offset: u64, len: usize) {
        // Reads are bounded by the sessions' windows and the cursors' rounds, not by the pool for writes.
        let buf = PoolBuf::unpooled(len);
        self.submit(token, media, Op::Read { offset, buf });
    }

    /// A segment of a cache file is filled with zeros before its first use, so that no write of the journal changes
    /// the file's metadata or finds the disk full.
    /// A disk that has no room or fails here is tried again after a pause, and hosts wait as for a full cache: nothing
    /// that was acknowledged is in such a segment.
    fn want_segment(self: &Rc<Self>) {
        if clock::now().mono < self.look().segment_pause {
            self.event(Event::Granted(None));
            return;
        }
        let Some((grant, fresh)) = self.deps.allocator.grant() else {
            self.event(Event::Granted(None));
            return;
        };
        if !fresh {
            self.event(Event::Granted(Some(grant)));
            return;
        }
        let len = self.deps.segment_len;
        let offset = segment_offset(grant.segment, len);
        let chunk = PoolBuf::unpooled((1 << 20).min(len as usize)).freeze();
        let bufs = vec![chunk.clone(); len as usize / chunk.len()];
        let (owner, cache) = (self.clone(), self.deps.cache.clone());
        self.ring.submit(&cache, Op::Write { offset, bufs, durability: Durability::ThenSync }, move |o| {
            let granted = match outcome(o) {
                Ok(_) => {
                    owner.state().segment_fault = None;
                    Some(grant)
                }
                Err(fault) => {
                    owner.deps.allocator.give_back_fresh(grant.segment);
                    let mut state = owner.state();
                    state.segment_fault = Some(fault.to_string());
                    state.segment_pause = clock::now().mono.plus_millis(SEGMENT_PAUSE_MILLIS);
                    None
                }
            };
            owner.event(Event::Granted(granted));
        });
    }
}
