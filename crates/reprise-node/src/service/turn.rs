//! Who may change this box, and who may ask a peer meanwhile.
//!
//! Two locks order the control plane. `commands` is held by every command of this box that changes what there is, from its
//! first look to its end, so that two of them never decide on the same state. `change` is held while groups, homes and what the
//! box knows of its peers are made, moved or ended, by commands of this box and of a peer alike; what one group's thread does in
//! one step (a peer or a volume put in or taken out, read-only, a pause, a size) its thread puts in order by itself. A command takes `commands` first, and gives `change` back
//! before it asks a peer: two boxes that ask each other while each holds its own would wait for each other.
//!
//! That order is a matter of types here. A [`Task`] is all a tokio task has to take the locks with, and only
//! [`Turns::spawn`] and [`Turns::to_the_end`] make one. What is held borrows from it: [`Commanding`] from the task,
//! [`Changing`] from the [`Asking`] that a question to a peer needs. So a task that changes the box has nothing to ask with,
//! cannot become a command, and cannot take the same lock twice.
//!
//! What the compiler does not see: a task that waits, while it holds a lock, for another task that wants it.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use reprise_api::ApiError;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;

use super::stopping;

/// The two locks of the control plane.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    commands: Arc<Mutex<()>>,
    change: Arc<Mutex<()>>,
}

/// What a tokio task takes the locks with. It holds neither.
#[derive(Debug)]
pub struct Task {
    commands: Arc<Mutex<()>>,
    asking: Asking,
}

/// Leave to ask a peer: nothing is held that the peer's own commands need.
#[derive(Debug)]
pub struct Asking {
    change: Arc<Mutex<()>>,
}

/// A command of this box, the only one. It may ask a peer.
///
/// ```
/// # use reprise_node::service::turn::{Asking, Task};
/// # async fn ask_a_peer(_: &mut Asking) {}
/// async fn command(task: &mut Task) {
///     let mut command = task.command().await;
///     ask_a_peer(&mut command).await;
///     let change = command.change().await;
///     drop(change);
///     ask_a_peer(&mut command).await;
/// }
/// ```
#[derive(Debug)]
pub struct Commanding<'t> {
    asking: &'t mut Asking,
    _held: MutexGuard<'t, ()>,
}

/// The only one that changes what there is on this box. While it lives nothing can ask a peer:
///
/// ```compile_fail,E0499
/// # use reprise_node::service::turn::{Asking, Task};
/// # async fn ask_a_peer(_: &mut Asking) {}
/// async fn command(task: &mut Task) {
///     let mut command = task.command().await;
///     let change = command.change().await;
///     ask_a_peer(&mut command).await;
///     drop(change);
/// }
/// ```
///
/// nor can the task become a command, which would take the locks in the wrong order:
///
/// ```compile_fail,E0499
/// # use reprise_node::service::turn::Task;
/// async fn for_a_peer(task: &mut Task) {
///     let change = task.change().await;
///     let command = task.command().await;
///     drop(change);
/// }
/// ```
///
/// nor is it leave to ask itself:
///
/// ```compile_fail,E0308
/// # use reprise_node::service::turn::{Asking, Changing};
/// # async fn ask_a_peer(_: &mut Asking) {}
/// async fn for_a_peer(change: &mut Changing<'_>) {
///     ask_a_peer(change).await;
/// }
/// ```
#[derive(Debug)]
pub struct Changing<'t> {
    _held: MutexGuard<'t, ()>,
}

impl Turns {
    fn task(&self) -> Task {
        Task { commands: self.commands.clone(), asking: Asking { change: self.change.clone() } }
    }

    /// Begins a task that may take the locks.
    pub fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        work: impl FnOnce(Task) -> F,
    ) -> JoinHandle<T> {
        tokio::spawn(work(self.task()))
    }

    /// The same, waited for. It runs to its end even where the caller goes away at the API's time limit.
    ///
    /// # Errors
    /// What the task answers, and that the box is stopping.
    pub async fn to_the_end<T: Send + 'static, F: Future<Output = Result<T, ApiError>> + Send + 'static>(
        &self,
        work: impl FnOnce(Task) -> F,
    ) -> Result<T, ApiError> {
        self.spawn(work).await.unwrap_or_else(|_| Err(stopping()))
    }
}

impl Task {
    /// Becomes the one command of this box that is under way.
    pub async fn command(&mut self) -> Commanding<'_> {
        Commanding { _held: self.commands.lock().await, asking: &mut self.asking }
    }
}

impl Asking {
    /// Becomes the one that changes the box, and gives up asking meanwhile.
    pub async fn change(&mut self) -> Changing<'_> {
        Changing { _held: self.change.lock().await }
    }
}

impl Deref for Task {
    type Target = Asking;

    fn deref(&self) -> &Asking {
        &self.asking
    }
}

impl DerefMut for Task {
    fn deref_mut(&mut self) -> &mut Asking {
        &mut self.asking
    }
}

impl Deref for Commanding<'_> {
    type Target = Asking;

    fn deref(&self) -> &Asking {
        self.asking
    }
}

impl DerefMut for Commanding<'_> {
    fn deref_mut(&mut self) -> &mut Asking {
        self.asking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_command_and_one_change_at_a_time() {
        let turns = Turns::default();
        let (mut a, mut b, mut peer) = (turns.task(), turns.task(), turns.task());
        let mut command = a.command().await;
        assert!(b.commands.try_lock().is_err(), "another command waits");
        drop(peer.change().await);
        let change = command.change().await;
        assert!(peer.change.try_lock().is_err(), "a peer's command waits while the box is changed");
        drop(change);
        drop(peer.change().await);
        drop(command);
        drop(b.command().await);
    }
}
