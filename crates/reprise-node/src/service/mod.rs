//! The box as the API sees it: groups, volumes, mirrors, peers, and what people are told about them.
//!
//! This is the control plane: it may be slow, it allocates, and nothing of a write's way goes through it. It keeps no
//! truth of its own: what a group is stands in its superblock, and is read from the snapshots that the groups' threads
//! publish.

mod admin;
mod api;
mod board;
mod budget;
mod conditions;
mod control;
mod faults;
mod groups;
mod image;
mod initiators;
mod machine;
mod messages;
mod meter;
mod mirrors;
mod notify;
mod pairing;
mod stall;
mod told;
pub mod turn;
mod verify;
mod view;
mod volumes;
mod watch;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reprise_api::strangers::TellFull;
use reprise_api::{ApiError, Endpoints, ErrorCode, Name, Settings, VerifyReport};
use reprise_engine::CommandError;
use reprise_types::{BoxId, BufPool, GroupId};
use tokio::sync::{mpsc, oneshot};

use crate::group::{Command, GroupNotice};
use crate::net::{LinkNet, NetEvent};
use crate::pool::Pool;
use crate::portal;
use crate::store::{Identity, Store};

pub(crate) use groups::GROUP_BUFFERS_MIN;
pub use groups::HomeError;

pub use machine::Machine;

use board::Board;
use groups::Entry;
use pairing::Pairing;
use turn::Turns;
use volumes::Preparing;

/// Notices and link events that may wait for the control plane.
pub(crate) const QUEUE_MAX: usize = 256;

/// What [`Node::new`] is made from.
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) machine: Machine,
    pub(crate) identity: Identity,
    pub(crate) store: Arc<Store>,
    pub(crate) pool: Pool,
    pub(crate) net: LinkNet,
    pub(crate) link_buffers: BufPool,
    /// Buffers of hosts, for all groups together.
    pub(crate) host_buffers: BufPool,
    pub(crate) targets: portal::Targets,
    pub(crate) portals: Vec<String>,
    pub(crate) notices: mpsc::Sender<GroupNotice>,
    /// Bytes that volumes may take in the data half; none: what the file system has.
    pub(crate) data_limit: Option<u64>,
}

/// The box.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

pub(crate) struct Inner {
    settings: Settings,
    machine: Machine,
    identity: Identity,
    store: Arc<Store>,
    board: Arc<Board>,
    pool: Pool,
    net: LinkNet,
    link_buffers: BufPool,
    host_buffers: BufPool,
    targets: portal::Targets,
    portals: Vec<String>,
    notices: mpsc::Sender<GroupNotice>,
    data_limit: Option<u64>,
    groups: Mutex<BTreeMap<GroupId, Entry>>,
    preparing: Mutex<Vec<Preparing>>,
    links: Mutex<BTreeMap<BoxId, control::PeerLinks>>,
    pairing: Mutex<Pairing>,
    endpoints: Mutex<Endpoints>,
    /// What peers may still make of the list of events.
    budgets: Mutex<budget::Budgets>,
    /// Targets that the portal has, with rules that hold, and those that are away; none where it has to be told again.
    published: Mutex<Option<(Vec<String>, Vec<String>)>>,
    /// Reports of comparisons, the latest last.
    verified: Mutex<VecDeque<VerifyReport>>,
    started: Instant,
    /// Measured rate of durable writes to the cache, the median of several, bytes a second; 0 before.
    write_rate: AtomicU64,
    turns: Turns,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs to its end even where the caller goes away at the API's time limit.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(stopping()))
}

/// Runs what waits for a disk on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(stopping()))
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "the box is stopping", "try again when it is back")
}

fn wrong_state(message: impl Into<String>, what_to_do: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::WrongState, message, what_to_do)
}

/// An error with all its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

fn random16() -> Result<[u8; 16], ApiError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| ApiError::internal("the box has no random numbers"))?;
    Ok(random)
}

/// The engine's refusal as the API says it.
fn refused(error: CommandError) -> ApiError {
    let message = error.to_string();
    let (code, what) = match &error {
        CommandError::NotSource => (ErrorCode::WrongState, "run the command on the box that is its source"),
        CommandError::NotMirror => (ErrorCode::WrongState, "run the command on the box that is its mirror"),
        CommandError::HasPeer => (ErrorCode::WrongState, "remove the mirror first: reprise mirror remove"),
        CommandError::NoPeer => (ErrorCode::WrongState, "add one: reprise mirror add"),
        CommandError::LocalOnly { .. } => (ErrorCode::WrongState, "put local-only volumes into a group of their own"),
        CommandError::TooMany | CommandError::NoRoom => (ErrorCode::LimitReached, "use another group"),
        CommandError::NoVolume => (ErrorCode::NotFound, "list what there is: reprise volume list"),
        CommandError::HomeTooSmall => (ErrorCode::WrongState, "try again in a moment"),
        CommandError::NotComparable { .. } => {
            (ErrorCode::WrongState, "try again when the mirror follows: see reprise status")
        }
        CommandError::Attached => (ErrorCode::WrongState, "see reprise status"),
        CommandError::Busy => (ErrorCode::WrongState, "try again in a moment"),
        CommandError::InUse => (ErrorCode::InUse, "log the initiators out, then try again"),
        CommandError::Fenced { .. } => {
            (ErrorCode::Fenced, "look after the disk of the cache, then: reprise group unfence")
        }
    };
    ApiError::new(code, message, what)
}

/// Asks a group's thread.
async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    make: impl FnOnce(oneshot::Sender<Result<T, CommandError>>) -> Command,
) -> Result<T, ApiError> {
    let (reply, answer) = oneshot::channel();
    commands.send(make(reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?.map_err(refused)
}

impl Inner {
    /// How advice is worded here.
    fn words(&self) -> words::Words {
        words::Words { appliance: self.machine.is_appliance() }
    }
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            settings,
            machine,
            identity,
            store,
            pool,
            net,
            link_buffers,
            host_buffers,
            targets,
            portals,
            notices,
            data_limit,
        } = parts;
        let board = Arc::new(Board::new(store.clone()));
        machine.messages().set_board(&board);
        let messages = machine.messages().clone();
        board.tell(Box::new(move |alert, change| messages.changed(alert, change)));
        let link = Some(net.address().to_string());
        let endpoints = Endpoints { iscsi: portals.clone(), link, ..Endpoints::default() };
        let node = Self(Arc::new(Inner {
            settings,
            machine,
            identity,
            store,
            board,
            pool,
            net,
            link_buffers,
            host_buffers,
            targets,
            portals,
            notices,
            data_limit,
            groups: Mutex::default(),
            preparing: Mutex::default(),
            links: Mutex::default(),
            pairing: Mutex::default(),
            endpoints: Mutex::new(endpoints),
            budgets: Mutex::default(),
            published: Mutex::default(),
            verified: Mutex::default(),
            started: Instant::now(),
            write_rate: AtomicU64::new(0),
            turns: Turns::default(),
        }));
        let inner = Arc::downgrade(&node.0);
        node.0.machine.set_status(Box::new(move || match inner.upgrade() {
            Some(inner) => inner.status_text(),
            None => String::new(),
        }));
        node
    }

    /// Takes the endpoints of the API, once its listeners are there.
    pub(crate) fn set_endpoints(&self, change: &mut dyn FnMut(&mut Endpoints)) {
        change(&mut locked(&self.0.endpoints));
    }

    /// Recovers and starts the groups of the pool, one after the other. One that cannot be had is shown as failed; the
    /// others serve. Blocks for the disk.
    pub(crate) fn start_groups(&self) {
        self.0.start_groups();
    }

    /// Does what has to be done without being asked, until the process stops.
    pub(crate) fn spawn_watchers(&self, notices: mpsc::Receiver<GroupNotice>, net_events: mpsc::Receiver<NetEvent>) {
        tokio::spawn(watch::notices(self.0.clone(), notices));
        tokio::spawn(control::net_events(self.0.clone(), net_events));
        tokio::spawn(watch::ticker(self.0.clone()));
        tokio::spawn(watch::measure(self.0.clone()));
    }

    /// Told when strangers have taken all places of a listener.
    pub(crate) fn tells_full(&self, listener: &'static str) -> TellFull {
        let board = self.0.board.clone();
        Box::new(move |full| board.strangers_full(listener, &full))
    }

    /// Stops the groups: what is under way is finished, the journal keeps what is not applied.
    pub(crate) async fn stop(&self) {
        self.0.stop_groups().await;
        if let Err(error) = self.0.store.flush() {
            tracing::warn!(error = &error as &dyn std::error::Error, "flush the control store");
        }
    }

    /// The box's name.
    pub fn name(&self) -> &Name {
        &self.0.settings.name
    }
}
