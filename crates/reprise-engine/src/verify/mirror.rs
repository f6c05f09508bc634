//! The mirror's side: holds the moment, hashes what it is asked for, and writes what the source sends.

use std::collections::BTreeMap;

use bytes::Bytes;
use reprise_format::link::{Message, VerifyFix, VerifyFixed, VerifyReady};
use reprise_types::{Extent, SectorCount};

use super::{ASKS_MAX, Fix, Held, MIRROR_BEHIND, REGION_SECTORS, VerifyEnd, VerifyStep};
use crate::core::Part;
use crate::effect::{Effect, IoFault, Token};
use crate::group::Group;

impl Group {
    pub(super) fn verify_request(&mut self, message: Message, payload: Bytes) {
        match message {
            Message::VerifyOpen(m) => {
                self.verify_end(VerifyEnd::Cancelled);
                let refused = if self.leg.is_detached() {
                    Some("a home of the mirror is detached")
                } else if self.core.meta.copy().is_some() {
                    Some("the first copy is not complete")
                } else if self.core.meta.applying > m.at.seq {
                    Some("the mirror's home is past the moment")
                } else {
                    None
                };
                match refused {
                    Some(why) => self.verify_send(VerifyReady { id: m.id, refused: why.to_owned() }.into()),
                    None => {
                        self.verify.held =
                            Some(Held { id: m.id, at: m.at, told: false, asks: BTreeMap::new(), fix: None });
                        self.verify_take_moment();
                    }
                }
            }
            Message::VerifyAsk(m) => {
                let extent = Extent { volume: m.slot, sector: m.sector, sectors: m.sectors };
                let inside = self.verify_inside(&extent) && m.grain.get() > 0;
                let open = self.verify.is_open();
                let number = self.verify.next_read();
                let Some(held) = self.verify.held.as_mut().filter(|h| h.id == m.id && open && inside) else { return };
                if held.asks.len() >= ASKS_MAX {
                    return;
                }
                held.asks.insert(number, m.grain);
                self.verify_begin_read(number, extent);
            }
            Message::VerifyFix(m) => self.verify_fix(&m, payload),
            Message::VerifyClose(m) if self.verify.held.as_ref().is_some_and(|h| h.id == m.id) => {
                self.verify_end(VerifyEnd::Cancelled);
            }
            _ => {}
        }
    }

    fn verify_inside(&self, extent: &Extent) -> bool {
        let end = extent.sector.checked_add(extent.sectors);
        let volume = self.core.meta.volume(extent.volume);
        (1..=REGION_SECTORS).contains(&extent.sectors.get())
            && volume.zip(end).is_some_and(|(v, end)| end.get() <= v.sectors.get())
    }

    /// Once everything up to the moment is durable here, and is the same history, it is held; the source is told when it can
    /// be read.
    pub(super) fn verify_take_moment(&mut self) {
        let Some(held) = self.verify.held.as_ref().filter(|h| !h.told && self.verify.run.is_none()) else { return };
        let (id, at) = (held.id, held.at);
        if self.core.journal.durable().seq < at.seq {
            return;
        }
        let mut refused = "";
        if self.verify.view.is_none() {
            let same = self.core.journal.branch() == at.branch && self.core.journal.hash_at(at.seq) == Some(at.hash);
            if !same {
                refused = "the mirror holds another history at the moment";
            } else if self.records_behind(at.seq) > self.core.config.moment_records {
                refused = MIRROR_BEHIND;
            } else {
                self.hold_moment(at);
            }
        }
        if !refused.is_empty() {
            self.verify.held = None;
        } else if !self.verify.is_open() {
            return;
        } else if let Some(held) = &mut self.verify.held {
            held.told = true;
        }
        self.verify_send(VerifyReady { id, refused: refused.to_owned() }.into());
    }

    /// Writes what the source holds to the home, where home is what the moment is read from.
    fn verify_fix(&mut self, m: &VerifyFix, payload: Bytes) {
        let extent = Extent { volume: m.slot, sector: m.sector, sectors: m.sectors };
        let fits = self.verify_inside(&extent) && payload.len() as u64 == m.sectors.bytes().get();
        let idle = self.verify.is_open() && self.verify.held.as_ref().is_some_and(|h| h.id == m.id && h.fix.is_none());
        if !fits || !idle {
            return;
        }
        let home: Vec<_> = self.verify.index().lookup(extent).into_iter().filter(|(_, _, seq)| seq.is_none()).collect();
        let mut written = 0;
        for (sector, sectors, _) in &home {
            let from = ((sector.get() - m.sector.get()) * 512) as usize;
            let bytes = payload.slice(from..from + sectors.bytes().get() as usize);
            let extent = Extent { volume: m.slot, sector: *sector, sectors: *sectors };
            let make = |token| Effect::WriteHome { token, extent, bufs: vec![bytes] };
            let token = self.core.fx.ask(Part::Verify, make);
            self.verify.open.insert(token, VerifyStep::Write);
            written += sectors.get();
        }
        let fix = Fix { slot: m.slot, sector: m.sector, written, missing: home.len(), failed: false };
        if let Some(held) = &mut self.verify.held {
            held.fix = Some(fix);
        }
        if home.is_empty() {
            self.verify_fixed();
        }
    }

    pub(crate) fn verify_step(&mut self, token: Token, result: Result<Bytes, IoFault>) {
        let Some(step) = self.verify.open.take(token) else { return };
        let Some(fix) = self.verify.held.as_mut().and_then(|h| h.fix.as_mut()) else { return };
        fix.failed |= result.is_err();
        match step {
            VerifyStep::Write => {
                fix.missing -= 1;
                if fix.missing == 0 {
                    let volumes = vec![fix.slot];
                    let token = self.core.fx.ask(Part::Verify, |token| Effect::FlushHome { token, volumes });
                    self.verify.open.insert(token, VerifyStep::Flush);
                }
            }
            VerifyStep::Flush => self.verify_fixed(),
        }
    }

    fn verify_fixed(&mut self) {
        let Some(held) = &mut self.verify.held else { return };
        let Some(fix) = held.fix.take() else { return };
        let written = SectorCount::from_raw(if fix.failed { 0 } else { fix.written });
        let (id, slot, sector) = (held.id, fix.slot, fix.sector);
        self.verify_send(VerifyFixed { id, slot, sector, written }.into());
    }
}
