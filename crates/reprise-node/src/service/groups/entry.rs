//! What is known of a group beside its superblock, and the way to its thread.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reprise_api::Name;
use reprise_engine::GroupMeta;
use reprise_types::GroupId;
use tokio::sync::{mpsc, watch};

use super::RETRY_EVERY;
use crate::group::{Command, Snapshot};
use crate::net::DialHandle;
use crate::service::board::JobHandle;
use crate::service::meter::Meter;
use crate::service::stall::{Flow, Stall};

/// Longest wait for a group that has just been made to serve hosts: it does so in any case.
const READY_TIME_MAX: Duration = Duration::from_secs(3);

/// A group of the pool.
pub(in crate::service) struct Entry {
    pub(in crate::service) name: Name,
    pub(in crate::service) state: EntryState,
    pub(in crate::service) dial: Option<DialHandle>,
    pub(in crate::service) meter: Meter,
    pub(in crate::service) leaving: BTreeSet<String>,
    /// It was made for a volume that is not there yet: without it, it goes again.
    pub(in crate::service) provisional: bool,
    pub(in crate::service) copy_job: Option<JobHandle>,
    /// Limit of the first copy that its thread was told last, bytes a second; 0 for none.
    pub(in crate::service) copy_rate: Option<u64>,
    pub(in crate::service) cache_full: bool,
    pub(in crate::service) link_up: bool,
    pub(in crate::service) link_since: Instant,
    pub(in crate::service) reconnects: u64,
    pub(in crate::service) down_reason: Option<String>,
    /// Why a home that is too small for a size of the source could not be given the room.
    pub(in crate::service) no_room: Option<String>,
    /// When that was tried last.
    room_tried: Option<Instant>,
    pub(in crate::service) flow: Flow,
    /// What is wrong with the link although it is not just down.
    pub(in crate::service) stall: Option<Stall>,
    /// The source has said that it paused the group, or resumed it.
    pub(in crate::service) paused_there: Option<bool>,
}

pub(in crate::service) enum EntryState {
    Running(Running),
    Failed {
        meta: Option<Box<GroupMeta>>,
        reason: String,
        /// It is tried again by itself.
        heals: bool,
        tried: Instant,
    },
}

/// A group whose thread runs.
#[derive(Clone)]
pub(in crate::service) struct Running {
    pub(in crate::service) id: GroupId,
    pub(in crate::service) name: Name,
    pub(in crate::service) commands: mpsc::Sender<Command>,
    pub(in crate::service) snapshot: watch::Receiver<Snapshot>,
}

impl Running {
    pub(in crate::service) fn now(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// Waits a moment for a group that has just been made: its first superblock is on its way.
    pub(super) async fn ready(&self) {
        let mut snapshot = self.snapshot.clone();
        let _ = tokio::time::timeout(READY_TIME_MAX, snapshot.wait_for(|s| s.ready)).await;
    }
}

impl Entry {
    pub(super) fn new(name: Name, state: EntryState) -> Self {
        Self {
            name,
            state,
            dial: None,
            meter: Meter::default(),
            leaving: BTreeSet::new(),
            provisional: false,
            copy_job: None,
            copy_rate: None,
            cache_full: false,
            link_up: false,
            link_since: Instant::now(),
            reconnects: 0,
            down_reason: None,
            no_room: None,
            room_tried: None,
            flow: Flow::default(),
            stall: None,
            paused_there: None,
        }
    }

    /// A home that is too small is tried to be given room from time to time.
    pub(in crate::service) fn room_is_due(&mut self) -> bool {
        let due = self.room_tried.is_none_or(|at| at.elapsed() > RETRY_EVERY);
        if due {
            self.room_tried = Some(Instant::now());
        }
        due
    }

    /// What the group's superblock says, where it could be read.
    pub(in crate::service) fn meta(&self) -> Option<Arc<GroupMeta>> {
        match &self.state {
            EntryState::Running(running) => Some(running.snapshot.borrow().meta.clone()),
            EntryState::Failed { meta, .. } => meta.as_ref().map(|m| Arc::new(GroupMeta::clone(m))),
        }
    }

    pub(in crate::service) fn running(&self) -> Option<&Running> {
        match &self.state {
            EntryState::Running(running) => Some(running),
            EntryState::Failed { .. } => None,
        }
    }
}
