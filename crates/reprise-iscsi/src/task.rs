//! Tasks of a session: a slab with generations, so that a late completion finds nothing.

use std::collections::BTreeMap;

use reprise_scsi::{DataOut, ScsiResponse, Then};
use reprise_types::{PoolBuf, VolumeId};

/// R2Ts we keep outstanding per task: enough to hide a round trip behind the data of three bursts.
pub(crate) const R2TS_MAX: usize = 4;

/// Names a task towards the owner of the connection. Never used again within a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskTag(pub u64);

impl TaskTag {
    fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    fn slot(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// An outstanding R2T.
#[derive(Debug, Clone, Copy)]
pub(crate) struct R2t {
    pub ttt: u32,
    /// Offset of the next byte.
    pub next: u32,
    /// First byte after it.
    pub end: u32,
    pub data_sn: u32,
}

/// What a task waits for.
#[derive(Debug)]
pub(crate) enum State {
    /// For data-out; `buf` is there once it was granted.
    Collect { out: DataOut, buf: PoolBuf },
    /// For the rest of unsolicited data that nobody wants, before this answer goes out.
    Drain(ScsiResponse),
    /// For the owner of the volume.
    Submitted { then: Then, writes: bool },
    /// Between two states, within one call.
    Moving,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub tag: TaskTag,
    pub itt: u32,
    pub lun: [u8; 8],
    pub volume: Option<VolumeId>,
    pub cmd_sn: u32,
    pub immediate: bool,
    /// Expected data transfer length in the direction of the command.
    pub expected: u32,
    /// True if data-out was announced (W bit).
    pub write: bool,
    pub state: State,
    /// Bytes of data-out wanted: the smaller of what is offered and what the command takes.
    pub wanted: u32,
    /// Unsolicited sequence: next offset, DataSN, and true until its last PDU came.
    pub unsolicited_open: bool,
    pub next_offset: u32,
    pub unsolicited_data_sn: u32,
    /// Bytes of data-out received.
    pub received: u32,
    pub r2ts: [Option<R2t>; R2TS_MAX],
    pub r2t_sn: u32,
    /// Next byte to ask for.
    pub solicited: u32,
    /// A task management function waits for this task.
    pub aborting: bool,
}

impl Task {
    pub(crate) fn r2ts_outstanding(&self) -> usize {
        self.r2ts.iter().flatten().count()
    }

    pub(crate) fn submitted_write(&self) -> bool {
        matches!(self.state, State::Submitted { writes: true, .. })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tasks {
    slots: Vec<Option<Task>>,
    free: Vec<u32>,
    by_itt: BTreeMap<u32, u32>,
    generation: u32,
    /// Tasks that hold a place in the command window.
    windowed: u32,
}

impl Tasks {
    pub(crate) fn len(&self) -> usize {
        self.by_itt.len()
    }

    pub(crate) fn windowed(&self) -> u32 {
        self.windowed
    }

    pub(crate) fn has_itt(&self, itt: u32) -> bool {
        self.by_itt.contains_key(&itt)
    }

    /// Adds a task; the caller has checked that the ITT is free and the number bounded.
    pub(crate) fn insert(&mut self, mut task: Task) -> TaskTag {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.generation = self.generation.wrapping_add(1);
        task.tag = TaskTag::new(slot, self.generation);
        self.by_itt.insert(task.itt, slot);
        self.windowed += u32::from(!task.immediate);
        let tag = task.tag;
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(task);
        }
        tag
    }

    pub(crate) fn get_mut(&mut self, tag: TaskTag) -> Option<&mut Task> {
        self.slots.get_mut(tag.slot())?.as_mut().filter(|task| task.tag == tag)
    }

    pub(crate) fn by_itt_mut(&mut self, itt: u32) -> Option<&mut Task> {
        let slot = *self.by_itt.get(&itt)?;
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, tag: TaskTag) -> Option<Task> {
        self.get_mut(tag)?;
        let task = self.slots.get_mut(tag.slot())?.take()?;
        self.by_itt.remove(&task.itt);
        self.free.push(tag.slot() as u32);
        self.windowed -= u32::from(!task.immediate);
        Some(task)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.slots.iter().flatten()
    }
}
