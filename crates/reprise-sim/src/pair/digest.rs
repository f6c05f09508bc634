//! What leaves the boxes in a run, as one number: two trees that behave alike give the same.
//!
//! Each stream is folded by itself, with the number of the event at which something left: the cache and each home of a box, each
//! connection's two directions, answers to hosts, and what people are told. The order between streams inside one event is left
//! out, and so are tokens.

use std::collections::BTreeMap;

use bytes::Bytes;
use reprise_engine::Effect;
use reprise_types::Extent;

use crate::pair::world::World;

/// Where something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Cache,
    Home(u16),
    Line(u64),
    Hosts,
    People,
}

/// The streams of both boxes so far.
#[derive(Default)]
pub(super) struct Digest {
    streams: BTreeMap<(usize, To), blake3::Hasher>,
    /// Each item is told as it is folded.
    tell: bool,
}

impl Digest {
    /// An empty one.
    pub(super) fn new(tell: bool) -> Self {
        Self { streams: BTreeMap::new(), tell }
    }

    fn fold(&mut self, event: u64, n: usize, to: To, what: &str, parts: &[&[u8]]) {
        let mut item = blake3::Hasher::new();
        item.update(&event.to_le_bytes()).update(what.as_bytes());
        for part in parts {
            item.update(part);
        }
        let item = item.finalize();
        if self.tell {
            println!("event {event} {} {to:?} {what} {}", World::name(n), &item.to_hex()[..16]);
        }
        self.streams.entry((n, to)).or_default().update(item.as_bytes());
    }

    /// All streams as one number.
    pub(super) fn finish(&self) -> u64 {
        let mut all = blake3::Hasher::new();
        for (key, stream) in &self.streams {
            all.update(format!("{key:?}").as_bytes()).update(stream.finalize().as_bytes());
        }
        let [a, b, c, d, e, f, g, h, ..] = *all.finalize().as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

fn bytes(bufs: &[Bytes]) -> Vec<&[u8]> {
    bufs.iter().map(|b| &b[..]).collect()
}

fn home(extent: &Extent) -> To {
    To::Home(extent.volume.get())
}

impl World {
    /// A group wants something to be done.
    pub(super) fn fold(&mut self, n: usize, effect: &Effect) {
        let (event, conn) = (self.counts.events, self.conn[n]);
        let Some(digest) = &mut self.digest else { return };
        let mut fold = |to, what: String, parts: &[&[u8]]| digest.fold(event, n, to, &what, parts);
        let place = |e: &Extent| format!("{} {}", e.sector.get(), e.sectors.get());
        match effect {
            Effect::WriteCache { at, bufs, .. } => fold(To::Cache, format!("write {at}"), &bytes(bufs)),
            Effect::WriteSuperblock { version, copy, .. } => fold(To::Cache, format!("superblock {version}"), &[copy]),
            Effect::WriteHome { extent, bufs, .. } => {
                fold(home(extent), format!("write {}", place(extent)), &bytes(bufs));
            }
            Effect::ZeroHome { extent, .. } => fold(home(extent), format!("zero {}", place(extent)), &[]),
            Effect::FlushHome { volumes, .. } => {
                for volume in volumes {
                    fold(To::Home(volume.get()), "flush".into(), &[]);
                }
            }
            Effect::Reply(io, Ok(reprise_engine::HostReply::Data(pieces))) => {
                fold(To::Hosts, format!("data {}", io.0), &[pieces.concat().as_slice()]);
            }
            Effect::Reply(io, result) => fold(To::Hosts, format!("{} {result:?}", io.0), &[]),
            Effect::LinkSend(_, message, payload) => {
                let (kind, meta) = (message.kind(), message.encode_meta());
                let parts: Vec<&[u8]> = std::iter::once(&meta[..]).chain(payload.iter().map(|b| &b[..])).collect();
                fold(To::Line(conn.unwrap_or(0)), format!("{kind:?}"), &parts);
            }
            Effect::LinkClose(_, reason) => fold(To::Line(conn.unwrap_or(0)), format!("close {reason:?}"), &[]),
            Effect::Notice(notice) => fold(To::People, format!("{notice:?}"), &[]),
            Effect::ReadCache { .. } | Effect::ReadHome { .. } | Effect::WantSegment => {}
            Effect::FreeSegments(_) | Effect::Kept(..) => {}
        }
    }
}
