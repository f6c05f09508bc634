//! What the parts of a group share, and what each of them may do with it.

use std::collections::VecDeque;

use bytes::Bytes;
use reprise_journal::{Journal, JournalConfig, JournalStart, NewRecord, ReadPlan};
use reprise_types::{BoxId, Extent, Mono, Now, Point, RecordKind, Seq, honest};

use super::effects::Effects;
use super::pins::Pins;
use super::reads::{ReadDone, Reader, Reads};
use super::segments::{ReadName, Segments};
use super::superblock::{Barrier, MetaStore};
use crate::io::{CacheFill, Io, IoFault, Notice, Token};
use crate::meta::GroupMeta;
use crate::signal::Signal;

/// What the node gives a group at start.
#[derive(Debug, Clone, Copy)]
pub struct GroupConfig {
    /// This box.
    pub this_box: BoxId,
    /// Journal geometry and limits.
    pub journal: JournalConfig,
    /// Window that a feeding peer may fill, in bytes.
    pub link_window: u64,
    /// Body bytes of one home round, at most: [`crate::ROUND_BYTES_MAX`] but in the simulator, which takes small ones too.
    pub round_bytes: u64,
    /// Records that a moment is put together from, at most: [`crate::MOMENT_RECORDS_MAX`] but in tests.
    pub moment_records: u64,
}

/// Figures for status.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GroupStats {
    /// Bytes written by hosts or received from the peer.
    pub bytes_in: u64,
    /// Operations of hosts that change a volume.
    pub writes: u64,
    /// Journal writes: each is durable before what is in it is acknowledged.
    pub journal_writes: u64,
    /// Bytes read by hosts.
    pub bytes_read: u64,
    /// Reads of hosts.
    pub reads: u64,
    /// Bytes that went to homes.
    pub bytes_applied: u64,
    /// Body bytes handed to the link.
    pub bytes_sent: u64,
    /// Segments held.
    pub segments: u64,
    /// Bytes of the journal that are not trimmed.
    pub held_bytes: u64,
    /// Extents in the index.
    pub index_extents: u64,
    /// Memory of the index and of the tables of the journal, bytes.
    pub index_bytes: u64,
    /// Records whose tables are in memory.
    pub records: u64,
    /// Bytes with a Seq that are not durable.
    pub undurable_bytes: u64,
    /// Reads that failed: the disk gave an error, or bytes that are not those that were written.
    pub read_errors: u64,
}

/// Between two notices of failed reads.
const READ_TOLD_MILLIS: u64 = 1000;

/// Whether what the last recovery chose is sealed: nothing is served, and nothing written to the journal, before.
#[derive(Debug, Clone, Copy)]
enum Seal {
    /// What the journal holds of units is being read.
    Reading,
    /// The superblock with the seal is on its way.
    Storing(Barrier),
}

/// What the parts of a group share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: GroupConfig,
    pub(crate) meta: MetaStore,
    pub(crate) journal: Journal,
    pub(crate) now: Now,
    pub(crate) fx: Effects,
    pub(crate) segments: Segments,
    pub(crate) reads: Reads,
    pub(crate) pins: Pins,
    pub(crate) fill: CacheFill,
    pub(crate) stats: GroupStats,
    /// None once sealed.
    seal: Option<Seal>,
    /// What holds back messages that follow the verdict on this connection: each end stores what instance of the other it
    /// saw before the other is told.
    link_opens: Option<Barrier>,
    /// `applied` as the durable superblock has it, where that is behind memory.
    applied_durable: Option<Seq>,
    /// What parts have said and nobody has heard.
    pub(crate) signals: VecDeque<Signal>,
    /// When a failed read was told last.
    read_told: Option<Mono>,
}

impl Core {
    pub(crate) fn new(now: Now, config: GroupConfig, meta: MetaStore, journal: Journal) -> Self {
        Self {
            config,
            meta,
            journal,
            now,
            fx: Effects::default(),
            segments: Segments::default(),
            reads: Reads::default(),
            pins: Pins::default(),
            fill: CacheFill::default(),
            stats: GroupStats::default(),
            seal: Some(Seal::Reading),
            link_opens: None,
            applied_durable: None,
            signals: VecDeque::new(),
            read_told: None,
        }
    }

    /// True once the seal of the last recovery is durable.
    pub(crate) fn is_ready(&self) -> bool {
        honest!(self.seal.is_none(), ServedBeforeSeal => true)
    }

    /// True where a write of the journal or the superblock failed.
    pub(crate) fn is_fenced(&self) -> bool {
        self.meta.fenced.is_some()
    }

    /// What is in the superblock now is what the last recovery chose: ready once it is durable.
    pub(crate) fn seal(&mut self, barrier: Barrier) {
        self.seal = Some(Seal::Storing(barrier));
    }

    /// A write of the journal or the superblock failed.
    pub(crate) fn fence(&mut self, fault: IoFault) {
        self.meta.note(|meta| meta.fenced = Some(fault.to_string()));
    }

    /// The journal begins anew, empty behind `start`, and the superblock with it; ready again once that is durable.
    pub(crate) fn begin_at(&mut self, start: Point, edit: impl FnOnce(&mut GroupMeta)) {
        // A segment that was granted ahead holds nothing, and the journal that begins asks for its own.
        let unused: Vec<_> = self.journal.segment_ids().collect();
        let begin = JournalStart::empty(start, self.meta.incarnation);
        self.journal = Journal::new(self.config.journal, begin, start.seq);
        self.applied_durable = None;
        let barrier = self.meta.change(|meta| {
            meta.trimmed = start;
            (meta.applied, meta.applying, meta.seal) = (start.seq, start.seq, start);
            edit(meta);
        });
        self.seal(barrier);
        self.segments.free_after(barrier, unused);
    }

    /// Nobody needs records of the journal up to here: segments that hold no others are free once that is durable.
    pub(crate) fn trim(&mut self, to: Seq) {
        if let Some((trimmed, freed)) = self.journal.trim(to) {
            let barrier = self.meta.change(|meta| meta.trimmed = trimmed);
            honest!(
                self.segments.free_after(barrier, freed),
                FreedBeforeTrimDurable => self.segments.retire(&mut self.fx, freed),
            );
        }
    }

    /// Says something to whom it concerns.
    pub(crate) fn tell(&mut self, signal: Signal) {
        self.signals.push_back(signal);
    }

    /// Messages of this connection wait.
    pub(crate) fn link_held(&self) -> bool {
        self.link_opens.is_some_and(|barrier| !self.meta.holds(barrier))
    }

    /// True behind a verdict on this connection that let data flow.
    pub(crate) fn link_opens(&self) -> bool {
        self.link_opens.is_some()
    }

    /// A connection begins or has ended.
    pub(crate) fn forget_link(&mut self) {
        self.link_opens = None;
    }

    /// Holds messages of this connection until the superblock as it is in memory is durable.
    pub(crate) fn hold_link(&mut self) {
        let barrier = self.meta.keep();
        self.link_opens = honest!(Some(barrier), LinkNotHeld => None);
    }

    /// The superblock has been written.
    pub(crate) fn stored(&mut self) {
        self.seal.take_if(|seal| matches!(seal, Seal::Storing(barrier) if self.meta.holds(*barrier)));
        self.segments.stored(&mut self.fx, &self.meta);
    }

    /// Home holds everything up to here, as the durable superblock says.
    pub(crate) fn applied(&self) -> Seq {
        self.applied_durable.unwrap_or(self.meta.applied)
    }

    /// The homes hold everything up to here; what asks for [`Self::applied`] hears it from [`Self::applied_stored`] on.
    pub(crate) fn set_applied(&mut self, to: Seq) -> Barrier {
        self.applied_durable = Some(self.applied());
        self.meta.change(|meta| meta.applied = to)
    }

    /// The durable superblock says that the homes hold everything up to here. Gives what it said before.
    pub(crate) fn applied_stored(&mut self, to: Seq) -> Seq {
        let before = self.applied();
        self.applied_durable = (to < self.meta.applied).then_some(to);
        before
    }

    pub(crate) fn read_opened(&mut self) -> ReadName {
        self.segments.read_opened()
    }

    pub(crate) fn read_closed(&mut self, name: ReadName) {
        self.segments.read_closed(&mut self.fx, name);
    }

    /// A read failed. Every one is counted; a host that reads a bad place all the time fills no log.
    pub(crate) fn read_failed(&mut self, notice: Notice) {
        self.stats.read_errors += 1;
        let told = self.read_told.is_some_and(|at| self.now.mono.millis_since(at) < READ_TOLD_MILLIS);
        if !told {
            self.read_told = Some(self.now.mono);
            self.fx.notice(notice);
        }
    }

    /// Gives a record its Seq.
    pub(crate) fn append(&mut self, kind: RecordKind, extent: Extent, payload: Bytes) -> Seq {
        self.stats.bytes_in += payload.len() as u64;
        // Extent and length were checked, and the payload is cut to a record's size.
        self.journal.append(NewRecord { kind, extent, payload }).expect("a record within its limits")
    }
}

/// Reads of volumes.
impl Core {
    /// Reads; what is in memory and durable is there at once, anything else comes when it is.
    pub(crate) fn read(&mut self, reader: Reader, plan: ReadPlan, extent: Extent) -> Option<ReadDone> {
        let name = self.start_read(reader, plan, extent);
        self.finish_read(name)
    }

    /// Begins a read; [`Self::finish_read`] is to follow.
    pub(crate) fn start_read(&mut self, reader: Reader, plan: ReadPlan, extent: Extent) -> ReadName {
        let name = self.read_opened();
        self.reads.start(&mut self.fx, name, reader, plan, extent);
        name
    }

    /// A piece was read, or could not be.
    pub(crate) fn piece_read(&mut self, token: Token, result: Result<Bytes, IoFault>) -> Option<ReadName> {
        let (name, failed) = self.reads.piece_read(token, result)?;
        if let Some(notice) = failed {
            if let Notice::JournalUnreadable(seq) = notice {
                self.tell(Signal::Unreadable(seq));
            }
            self.read_failed(notice);
        }
        Some(name)
    }

    /// All bytes there? Then the read waits only until what it saw is durable.
    pub(crate) fn finish_read(&mut self, name: ReadName) -> Option<ReadDone> {
        let durable = self.journal.durable().seq;
        let (newest, failed) = self.reads.all_there(name)?;
        // It touches no segment any more. Held back on, they could be the very ones that the records it waits for need.
        honest!(self.read_closed(name), WaitingReadHolds => ());
        if honest!(newest <= durable || failed, ReadBeforeDurable => true) {
            return self.end_read(name);
        }
        self.reads.wait(name, newest);
        None
    }

    /// Everything up to `durable` is durable: what has seen no more is done.
    pub(crate) fn reads_durable(&mut self, durable: Seq) -> Vec<ReadDone> {
        self.reads.durable(durable).into_iter().filter_map(|name| self.end_read(name)).collect()
    }

    fn end_read(&mut self, name: ReadName) -> Option<ReadDone> {
        let done = self.reads.end(name)?;
        honest!((), WaitingReadHolds => self.read_closed(name));
        Some(done)
    }

    /// Ends all reads; gives the operations of hosts among them.
    pub(crate) fn forget_reads(&mut self) -> Vec<Io> {
        let reads = self.reads.forget();
        reads.iter().for_each(|(name, _)| self.read_closed(*name));
        let hosts = reads.into_iter().filter_map(|(_, reader)| match reader {
            Reader::Host(io) => Some(io),
            Reader::Compare | Reader::Copy(_) | Reader::Verify(_) => None,
        });
        hosts.collect()
    }
}
