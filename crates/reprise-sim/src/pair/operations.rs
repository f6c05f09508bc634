//! Operations of the disks: how long they take, and what the source's journal shows of its history on the way.

use bytes::{Bytes, BytesMut};
use reprise_engine::{Effect, Event, Token};
use reprise_format::batch::{BATCH_ALIGN, BodyHeader, ENVELOPE_LEN, Envelope};
use reprise_format::segment::SEGMENT_HEADER_LEN;
use reprise_journal::segment_offset;
use reprise_types::Seq;

use crate::Rng;
use crate::pair::boxes::SEGMENT_LEN;
use crate::pair::history::History;
use crate::pair::plan::{Hanging, MS};
use crate::pair::world::{Next, World, say};

impl World {
    pub(super) fn submit(&mut self, n: usize, token: Token, effect: Effect) {
        let mut again = false;
        if let Effect::WriteCache { at, bufs, .. } = &effect {
            again = self.is_rewrite(n, bufs);
            if n == 0 {
                self.tap(*at, bufs);
            }
        }
        let mut trims = false;
        if matches!(effect, Effect::WriteSuperblock { .. }) {
            let trimmed = self.boxes[n].group().map_or(Seq::ZERO, |g| g.meta().trimmed.seq);
            trims = std::mem::replace(&mut self.boxes[n].trimmed, trimmed) < trimmed;
        }
        let (op, mut rng) = self.drawn(n, lane(&effect));
        let nanos = match &effect {
            Effect::WriteCache { .. } | Effect::WriteSuperblock { .. } => rng.range(30_000, 300_000),
            Effect::FlushHome { .. } => rng.range(200_000, 3_000_000),
            _ => rng.range(20_000, 200_000),
        };
        let spike = if rng.one_in(500) { 50 } else { 1 };
        let life = self.boxes[n].life;
        let home = matches!(effect, Effect::WriteHome { .. } | Effect::ZeroHome { .. } | Effect::FlushHome { .. });
        let slow = self.boxes[n].slow.max(if home { self.boxes[n].slow_home } else { 1 });
        let mut delay = nanos * spike * slow;
        let hanging = &mut self.boxes[n].hanging;
        if let Some(i) = hanging.iter().position(|(what, _)| hangs(*what, &effect, again, trims)) {
            let (_, time) = hanging.swap_remove(i);
            say!(self, "{}: {} hangs", Self::name(n), effect_name(&effect));
            delay = delay.max(time);
        }
        self.check_read(n, &effect);
        if let Some(p) = &mut self.boxes[n].process {
            p.pending.insert(op, (token, effect));
        }
        self.after(delay, Next::Io { n, life, op });
    }

    /// A number for an operation, and what its time is drawn from. Both hang on what the box does in this lane only: two
    /// operations of different lanes that change places change nothing else.
    fn drawn(&mut self, n: usize, lane: u64) -> (u64, Rng) {
        let count = self.submitted.entry((n, lane)).or_default();
        *count += 1;
        let op = self.counts.events << 32 | lane << 24 | *count & 0xff_ffff;
        (op, Rng::new(self.plan.seed.rotate_left(24) ^ (n as u64) << 60 ^ lane << 48 ^ *count))
    }

    pub(super) fn io_done(&mut self, n: usize, life: u64, op: u64) {
        if self.boxes[n].life != life {
            return;
        }
        if let Some((left, _)) = &mut self.cut_after[n] {
            if *left == 0 {
                let rest = self.cut_after[n].take().map(|(_, rest)| rest).unwrap_or_default();
                *self.counts.classes.entry(17).or_default() += u64::from(!self.boxes[n].is_ready());
                self.power_off(n);
                self.after(20 * MS, Next::Start { n, nested: rest });
                return;
            }
            *left -= 1;
        }
        let Some((token, effect)) = self.boxes[n].process.as_mut().and_then(|p| p.pending.remove(&op)) else { return };
        let result = self.boxes[n].carry_out(&effect);
        if let Err(fault) = &result {
            say!(self, "{}: {fault} for {}", Self::name(n), effect_name(&effect));
        }
        let was_ready = self.boxes[n].is_ready();
        self.event(n, Event::Done(token, result));
        if !was_ready && self.boxes[n].is_ready() {
            self.boxes[n].sealed();
            self.check_units(n);
            say!(self, "{}: ready at {}", Self::name(n), self.boxes[n].group().map_or(Seq::ZERO, |g| g.durable().seq));
        }
    }

    /// True where a batch goes to the disk that the journal has had durable already.
    fn is_rewrite(&self, n: usize, bufs: &[Bytes]) -> bool {
        let bytes = bufs.concat();
        let body = Envelope::decode(&bytes).ok().and_then(|_| BodyHeader::decode(&bytes[ENVELOPE_LEN..]).ok());
        let durable = self.boxes[n].group().map(|g| g.durable().seq);
        body.is_some_and(|b| durable.is_some_and(|d| b.head.last_seq <= d))
    }

    /// What goes to the source's journal is what its history is.
    fn tap(&mut self, at: u64, bufs: &[Bytes]) {
        if let Err(what) = tap(&mut self.history, at, bufs) {
            self.fail(what);
        }
    }
}

/// Shows a history the records that a write of the source's journal holds.
pub(super) fn tap(history: &mut History, at: u64, bufs: &[Bytes]) -> Result<(), String> {
    let mut bytes = BytesMut::new();
    bufs.iter().for_each(|b| bytes.extend_from_slice(b));
    let mut from = 0;
    if (at - segment_offset(0, SEGMENT_LEN)).is_multiple_of(SEGMENT_LEN) {
        from = SEGMENT_HEADER_LEN;
    }
    while let Some(rest) = bytes.get(from..).filter(|r| r.len() >= BATCH_ALIGN) {
        // Anything else is a footer.
        let Ok(envelope) = Envelope::decode(rest) else { return Ok(()) };
        let header = BodyHeader::decode(&rest[ENVELOPE_LEN..]);
        let header = header.map_err(|e| format!("a batch goes to disk that does not decode: {e}"))?;
        let payload = ENVELOPE_LEN + header.head.header_len as usize;
        for r in &header.records {
            let start = payload + r.payload_offset as usize;
            let data = rest.get(start..start + r.descriptor.payload_len as usize).unwrap_or(&[]);
            history.record(r.seq, r.descriptor.kind, r.descriptor.extent(), data)?;
        }
        from += envelope.total_len as usize;
    }
    Ok(())
}

/// The token of an effect of the disk.
pub(super) fn token_of(effect: &Effect) -> Option<Token> {
    match effect {
        Effect::WriteCache { token, .. }
        | Effect::WriteSuperblock { token, .. }
        | Effect::ReadCache { token, .. }
        | Effect::ReadHome { token, .. }
        | Effect::WriteHome { token, .. }
        | Effect::ZeroHome { token, .. }
        | Effect::FlushHome { token, .. } => Some(*token),
        _ => None,
    }
}

/// Operations of one kind on one disk, which keep their order.
fn lane(effect: &Effect) -> u64 {
    match effect {
        Effect::WriteCache { .. } => 0,
        Effect::WriteSuperblock { .. } => 1,
        Effect::ReadCache { .. } => 2,
        Effect::FlushHome { .. } => 3,
        Effect::WriteHome { extent, .. } | Effect::ZeroHome { extent, .. } => 4 + 2 * u64::from(extent.volume.get()),
        Effect::ReadHome { extent, .. } => 5 + 2 * u64::from(extent.volume.get()),
        _ => 255,
    }
}

fn hangs(what: Hanging, effect: &Effect, again: bool, trims: bool) -> bool {
    match effect {
        Effect::WriteCache { .. } => what == if again { Hanging::Rewrite } else { Hanging::CacheWrite },
        Effect::ReadCache { .. } => what == Hanging::CacheRead,
        Effect::WriteSuperblock { .. } => what == if trims { Hanging::Trim } else { Hanging::Superblock },
        Effect::WriteHome { .. } | Effect::ZeroHome { .. } => what == Hanging::HomeWrite,
        Effect::ReadHome { .. } => what == Hanging::HomeRead,
        _ => false,
    }
}

fn effect_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::WriteCache { .. } => "a write of the journal",
        Effect::WriteSuperblock { .. } => "a write of the superblock",
        Effect::ReadCache { .. } => "a read of the journal",
        Effect::ReadHome { .. } => "a read of a home",
        Effect::WriteHome { .. } | Effect::ZeroHome { .. } => "a write of a home",
        Effect::FlushHome { .. } => "a sync of homes",
        _ => "no disk operation",
    }
}
