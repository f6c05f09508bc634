//! The console as a state machine: keys and answers go in, bytes for the terminal and requests come out. It does no
//! input or output, knows no clock and starts nothing.
//!
//! The dialogs ([`super::page`]) are written as `async` functions, because a conversation reads best as one. They wait
//! for nothing but the events that [`Screen::handle`] puts before them; nothing else runs them.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use super::call::{Answer, Call, Refusal};
use super::keys::{Decoder, Key};
use super::page;
use super::ui::{Event, Redraw, Shared, Ui};

/// Without a key for so long, whatever was begun is dropped and the status page comes back.
pub const IDLE_MS_MAX: u64 = 600_000;
/// After so long without a key nobody knows what is on the terminal: the next key draws the screen again, and an Enter
/// does nothing else.
pub const SILENCE_MS: u64 = 30_000;
/// What follows an ESC at once belongs to it; at 9600 baud a byte takes 1 ms.
const ESCAPE_MS: u64 = 100;
/// Longest line typed: the address of a webhook, and some room.
const LINE_CHARS_MAX: usize = 1100;

/// What happens to a console.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes came from the terminal.
    Bytes(&'a [u8]),
    /// Time passed. Wanted about every 200 ms.
    Tick,
    /// A cable was plugged in, or the terminal may have lost the screen in another way.
    Cable,
    /// The box answered the request of this number.
    Answer(u64, Result<Box<Answer>, Refusal>),
    /// All that [`Screen::take_output`] gave was written.
    Written,
}

/// How a console behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mode {
    /// No escape codes.
    pub plain: bool,
    /// Somebody started it in a shell, and may leave it.
    pub may_quit: bool,
}

/// A console.
pub struct Screen {
    shared: Rc<RefCell<Shared>>,
    dialog: Pin<Box<dyn Future<Output = ()>>>,
    keys: Decoder,
    last_byte_ms: u64,
}

impl Screen {
    /// A console that shows the status page.
    pub fn new(now_ms: u64, mode: Mode) -> Self {
        let shared = Rc::new(RefCell::new(Shared::new(now_ms, mode)));
        let dialog = Box::pin(page::console(Ui::new(shared.clone())));
        let mut screen = Self { shared, dialog, keys: Decoder::default(), last_byte_ms: now_ms };
        screen.go_on();
        screen
    }

    /// Something happened.
    pub fn handle(&mut self, now_ms: u64, input: Input<'_>) {
        {
            let mut shared = self.shared.borrow_mut();
            shared.now_ms = shared.now_ms.max(now_ms);
        }
        match input {
            Input::Bytes(bytes) => {
                self.last_byte_ms = now_ms;
                for byte in bytes {
                    for key in self.keys.push(*byte).into_iter().flatten() {
                        self.key(key);
                    }
                }
            }
            Input::Tick => {
                if self.keys.is_waiting() && now_ms.saturating_sub(self.last_byte_ms) >= ESCAPE_MS {
                    let key = self.keys.timeout();
                    key.into_iter().for_each(|key| self.key(key));
                }
                self.tick();
            }
            Input::Cable => self.shared.borrow_mut().wants(Redraw::Anew),
            Input::Answer(id, result) => self.put(Event::Answer(id, result)),
            Input::Written => {
                self.shared.borrow_mut().last_key_ms = now_ms;
                self.put(Event::Written);
            }
        }
    }

    /// The screen as it is: at most 24 lines of at most 80 columns. The last one is where is typed.
    pub fn lines(&self) -> Vec<String> {
        self.shared.borrow().lines()
    }

    /// The last line's column where the next character appears.
    pub fn cursor_column(&self) -> usize {
        self.shared.borrow().prompt_line().len()
    }

    /// Requests that the box has to be asked, with their numbers.
    pub fn take_requests(&mut self) -> Vec<(u64, Call)> {
        std::mem::take(&mut self.shared.borrow_mut().requests)
    }

    /// Bytes for the terminal.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.shared.borrow_mut().output()
    }

    /// True if [`Input::Written`] is waited for.
    pub fn wants_written(&self) -> bool {
        self.shared.borrow().wants_written
    }

    /// True after the person left.
    pub fn is_over(&self) -> bool {
        self.shared.borrow().over
    }

    fn key(&mut self, key: Key) {
        let mut shared = self.shared.borrow_mut();
        let silent_ms = shared.now_ms.saturating_sub(shared.last_key_ms);
        shared.last_key_ms = shared.now_ms;
        if silent_ms >= SILENCE_MS {
            shared.wants(Redraw::Anew);
            if key == Key::Enter && shared.typed.is_empty() {
                return;
            }
        }
        match key {
            Key::Char(c) => {
                if shared.typed.len() < LINE_CHARS_MAX {
                    shared.typed.push(c);
                    shared.echo(c);
                }
            }
            Key::Erase => {
                if shared.typed.pop().is_some() {
                    shared.echo_erase();
                }
            }
            Key::EraseAll => {
                shared.typed.clear();
                shared.wants(Redraw::Prompt);
            }
            Key::Redraw => shared.wants(Redraw::Anew),
            Key::End => shared.over |= shared.mode.may_quit && shared.typed.is_empty(),
            Key::Back => {
                shared.typed.clear();
                drop(shared);
                self.put(Event::Back);
            }
            Key::Enter => {
                let line = std::mem::take(&mut shared.typed);
                shared.echo_enter();
                drop(shared);
                self.put(Event::Line(line));
            }
        }
    }

    fn tick(&mut self) {
        let idle = {
            let shared = self.shared.borrow();
            !shared.at_home && shared.now_ms.saturating_sub(shared.last_key_ms) >= IDLE_MS_MAX
        };
        if idle {
            // The dialog is gone with all it knew, such as a secret typed halfway; answers that are still to come are
            // for numbers nobody waits for.
            let mut shared = self.shared.borrow_mut();
            shared.events.clear();
            shared.typed.clear();
            shared.raw.clear();
            shared.wants_written = false;
            drop(shared);
            self.dialog = Box::pin(page::console(Ui::new(self.shared.clone())));
            self.go_on();
        } else {
            self.put(Event::Tick);
        }
    }

    fn put(&mut self, event: Event) {
        self.shared.borrow_mut().events.push_back(event);
        self.go_on();
    }

    /// Runs the dialog until it waits for the next event.
    fn go_on(&mut self) {
        let over = self.shared.borrow().over;
        if !over && self.dialog.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.shared.borrow_mut().over = true;
        }
    }
}
