//! A whole pair in one thread, from one seed: host, source, link and mirror, with the real groups of `reprise-engine` on
//! both boxes, on simulated disks, lines and clocks.
//!
//! [`plan`] says what happens, [`world`] lets it happen, [`history`] knows what must be true and is asked after every
//! step. What is simulated and what is not stands in `docs/reliability.md`.

pub mod boxes;
mod checks;
mod digest;
pub mod exhaustive;
pub mod history;
mod holds;
mod home_rot;
mod net;
mod newer;
mod operations;
mod person;
pub mod plan;
mod rounds;
mod run;
mod scenes;
mod shrink;
mod traffic;
mod trouble;
pub mod world;

pub use holds::Hold;
pub use plan::Plan;
pub use run::{Ending, Report, Sum, Tell, run};
pub use shrink::{parse_kept, render_kept, shrink};
