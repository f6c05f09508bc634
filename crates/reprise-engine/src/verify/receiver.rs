//! The receiver's side, which is the mirror: holds the moment, hashes what it is asked for, and writes what the source sends.

use std::collections::BTreeMap;

use bytes::Bytes;
use reprise_format::link::{Message, VerifyFix, VerifyFixed, VerifyHashes, VerifyReady};
use reprise_types::{Extent, SectorCount};

use super::{
    ASKS_MAX, Fix, Held, MIRROR_BEHIND, REGION_SECTORS, Verify, VerifyEnd, VerifyStep, hashes, records_behind, send,
};
use crate::core::{BelowApplying, Core, Part, RegionRead};
use crate::io::{Effect, IoFault, LegId, Token};

impl Verify {
    /// What the source asks.
    pub(super) fn request(&mut self, core: &mut Core, home_detached: bool, message: Message, payload: Bytes) {
        match message {
            Message::VerifyOpen(m) => {
                self.end(core, VerifyEnd::Cancelled);
                let held = if home_detached {
                    Err("a home of the mirror is detached")
                } else if core.meta.copy().is_some() {
                    Err("the first copy is not complete")
                } else {
                    self.pin(core, m.at.seq).map_err(|BelowApplying| "the mirror's home is past the moment")
                };
                match held {
                    Err(why) => send(core, VerifyReady { id: m.id, refused: why.to_owned() }),
                    Ok(()) => {
                        self.held = Some(Held { id: m.id, at: m.at, told: false, asks: BTreeMap::new(), fix: None });
                        self.take_moment(core);
                    }
                }
            }
            Message::VerifyAsk(m) => {
                let extent = Extent { volume: m.slot, sector: m.sector, sectors: m.sectors };
                let inside = inside(core, &extent) && m.grain.get() > 0;
                let open = self.is_open();
                let number = self.next_read();
                let Some(held) = self.held.as_mut().filter(|h| h.id == m.id && open && inside) else { return };
                if held.asks.len() >= ASKS_MAX {
                    return;
                }
                held.asks.insert(number, m.grain);
                self.begin_read(core, number, extent);
            }
            Message::VerifyFix(m) => self.fix(core, &m, payload),
            Message::VerifyClose(m) if self.held.as_ref().is_some_and(|h| h.id == m.id) => {
                self.end(core, VerifyEnd::Cancelled);
            }
            _ => {}
        }
    }

    /// A region was read here, or could not be. Gives back what the source has not asked for.
    pub(super) fn read_for_sender(&mut self, core: &mut Core, of: RegionRead, data: Vec<u8>) -> Option<Vec<u8>> {
        let asked = self.held.as_mut().and_then(|held| Some((held.id, held.asks.remove(&of.number)?)));
        let Some((id, grain)) = asked else { return Some(data) };
        let hashes = Bytes::from(hashes(&data, grain));
        send(core, VerifyHashes { id, slot: of.volume, sector: of.sector, hashes });
        None
    }

    /// Once everything up to the moment is durable here, and is the same history, it is held; the source is told when it can
    /// be read.
    pub(super) fn take_moment(&mut self, core: &mut Core) {
        let Some(held) = self.held.as_ref().filter(|h| !h.told && self.run.is_none()) else { return };
        let (id, at) = (held.id, held.at);
        if core.journal.durable().seq < at.seq {
            return;
        }
        let mut refused = "";
        if self.view.is_none() {
            let same = core.journal.branch() == at.branch && core.journal.hash_at(at.seq) == Some(at.hash);
            if !same {
                refused = "the mirror holds another history at the moment";
            } else if records_behind(core, at.seq) > core.config.moment_records {
                refused = MIRROR_BEHIND;
            } else {
                self.hold_moment(core, at);
            }
        }
        if !refused.is_empty() {
            self.let_go(core);
        } else if !self.is_open() {
            return;
        } else if let Some(held) = &mut self.held {
            held.told = true;
        }
        send(core, VerifyReady { id, refused: refused.to_owned() });
    }

    /// Writes what the source holds to the home, where home is what the moment is read from.
    fn fix(&mut self, core: &mut Core, m: &VerifyFix, payload: Bytes) {
        let extent = Extent { volume: m.slot, sector: m.sector, sectors: m.sectors };
        let fits = inside(core, &extent) && payload.len() as u64 == m.sectors.bytes().get();
        let idle = self.is_open() && self.held.as_ref().is_some_and(|h| h.id == m.id && h.fix.is_none());
        if !fits || !idle {
            return;
        }
        let home: Vec<_> = self.index().lookup(extent).into_iter().filter(|(_, _, seq)| seq.is_none()).collect();
        let mut written = 0;
        for (sector, sectors, _) in &home {
            let from = ((sector.get() - m.sector.get()) * 512) as usize;
            let bytes = payload.slice(from..from + sectors.bytes().get() as usize);
            let extent = Extent { volume: m.slot, sector: *sector, sectors: *sectors };
            let make = |token| Effect::WriteHome { token, leg: LegId::FIRST, extent, bufs: vec![bytes] };
            let token = core.fx.ask(Part::Verify, make);
            self.open.insert(token, VerifyStep::Write);
            written += sectors.get();
        }
        let fix = Fix { slot: m.slot, sector: m.sector, written, missing: home.len(), failed: false };
        if let Some(held) = &mut self.held {
            held.fix = Some(fix);
        }
        if home.is_empty() {
            self.fixed(core);
        }
    }

    /// A piece of a fix was written, or its home flushed.
    pub(crate) fn answered(&mut self, core: &mut Core, token: Token, result: Result<Bytes, IoFault>) {
        let Some(step) = self.open.take(token) else { return };
        let Some(fix) = self.held.as_mut().and_then(|h| h.fix.as_mut()) else { return };
        fix.failed |= result.is_err();
        match step {
            VerifyStep::Write => {
                fix.missing -= 1;
                if fix.missing == 0 {
                    let volumes = vec![fix.slot];
                    let token =
                        core.fx.ask(Part::Verify, |token| Effect::FlushHome { token, leg: LegId::FIRST, volumes });
                    self.open.insert(token, VerifyStep::Flush);
                }
            }
            VerifyStep::Flush => self.fixed(core),
        }
    }

    fn fixed(&mut self, core: &mut Core) {
        let Some(held) = &mut self.held else { return };
        let Some(fix) = held.fix.take() else { return };
        let written = SectorCount::from_raw(if fix.failed { 0 } else { fix.written });
        let (id, slot, sector) = (held.id, fix.slot, fix.sector);
        send(core, VerifyFixed { id, slot, sector, written });
    }
}

fn inside(core: &Core, extent: &Extent) -> bool {
    let end = extent.sector.checked_add(extent.sectors);
    let volume = core.meta.volume(extent.volume);
    (1..=REGION_SECTORS).contains(&extent.sectors.get())
        && volume.zip(end).is_some_and(|(v, end)| end.get() <= v.sectors.get())
}
