//! The console on a serial line or on the machine's own screen: 80 columns, 24 lines, ASCII, keys that every terminal
//! has. A client of the API; where no daemon answers, of the machine's first process for what that does itself.
//!
//! [`Screen`] is the console as a state machine, without input, output or a clock. [`run`] joins it to a terminal and
//! to the box.

mod alone;
pub mod call;
pub mod field;
pub mod keys;
pub mod menu;
mod page;
mod screen;
mod text;
mod tty;
mod ui;

pub use screen::{IDLE_MS_MAX, Input, Mode, SILENCE_MS, Screen};
pub use tty::{Options, run};
