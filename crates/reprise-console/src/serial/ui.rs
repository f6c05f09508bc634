//! What a dialog can do: draw, ask, choose, have a typed confirmation, ask the box.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::call::{Answer, Ask, Call, Refusal, Weight};
use super::field::{Checked, Field, WORD};
use super::menu::{Item, Menu};
use super::screen::Mode;
use super::text::{COLUMNS, ROWS, column, fit, plain, wrap};

/// Lines of a note below a page.
const NOTE_LINES_MAX: usize = 6;
/// An answer that takes longer is worth a word.
const BUSY_MS: u64 = 700;
/// What stands in the place of a prompt meanwhile.
const BUSY_PROMPT: &str = "One moment ... ";
/// Columns of a prompt before what is typed.
const PROMPT_COLUMNS_MAX: usize = 48;

/// What a dialog waits for.
#[derive(Debug)]
pub(super) enum Event {
    Line(String),
    Back,
    Answer(u64, Result<Box<Answer>, Refusal>),
    Tick,
    Written,
}

/// How much has to be sent to the terminal, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Redraw {
    Nothing,
    /// Only the line that is typed.
    Prompt,
    /// The page, by itself: a plain terminal is left alone.
    Quiet,
    /// The page.
    Page,
    /// Everything, on a terminal that may show anything.
    Anew,
}

/// The person goes back.
#[derive(Debug)]
pub(super) struct Back;

/// The outcome of a step of a dialog.
pub(super) type Step<T> = Result<T, Back>;

/// Somebody typed the word for it. Nothing is changed without one, and only this module makes them.
pub(super) struct Confirmed(());

/// What is on the screen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Page {
    title: String,
    body: Vec<String>,
    /// Below the body and always visible: the choices, or how to write an answer.
    fixed: Vec<String>,
    note: Vec<String>,
    prompt: String,
    secret: bool,
    at: usize,
}

/// What the state machine and its dialog share.
pub(super) struct Shared {
    pub(super) mode: Mode,
    pub(super) now_ms: u64,
    pub(super) last_key_ms: u64,
    pub(super) events: VecDeque<Event>,
    pub(super) requests: Vec<(u64, Call)>,
    pub(super) typed: String,
    pub(super) raw: Vec<String>,
    pub(super) wants_written: bool,
    pub(super) at_home: bool,
    pub(super) over: bool,
    next_request: u64,
    box_name: String,
    page: Page,
    /// The page that a plain terminal showed last, without its note and prompt.
    printed: Page,
    note: Vec<String>,
    redraw: Redraw,
    echo: Vec<u8>,
}

impl Shared {
    pub(super) fn new(now_ms: u64, mode: Mode) -> Self {
        Self {
            mode,
            now_ms,
            last_key_ms: now_ms,
            events: VecDeque::new(),
            requests: Vec::new(),
            typed: String::new(),
            raw: Vec::new(),
            wants_written: false,
            at_home: true,
            over: false,
            next_request: 0,
            box_name: String::new(),
            page: Page::default(),
            printed: Page::default(),
            note: Vec::new(),
            redraw: Redraw::Anew,
            echo: Vec::new(),
        }
    }

    pub(super) fn wants(&mut self, redraw: Redraw) {
        self.redraw = self.redraw.max(redraw);
    }

    pub(super) fn echo(&mut self, c: char) {
        let fits = self.page.prompt.len() + self.typed.len() <= COLUMNS;
        if !self.page.secret && fits && self.mode.plain {
            self.echo.extend(c.to_string().bytes());
        } else if !self.page.secret {
            self.wants(Redraw::Prompt);
        }
    }

    pub(super) fn echo_erase(&mut self) {
        let fitted = self.page.prompt.len() + self.typed.len() < COLUMNS;
        if !self.page.secret && fitted && self.mode.plain {
            self.echo.extend(b"\x08 \x08");
        } else if !self.page.secret {
            self.wants(Redraw::Prompt);
        }
    }

    pub(super) fn echo_enter(&mut self) {
        if self.mode.plain {
            self.echo.extend(b"\r\n");
        } else {
            self.wants(Redraw::Prompt);
        }
    }

    /// Lines that are there for the body, and how many pages it takes.
    fn pages(&self) -> (usize, usize) {
        let taken = 2 + self.page.fixed.len() + self.page.note.len() + 1;
        let room = ROWS.saturating_sub(taken).max(1);
        if self.page.body.len() <= room {
            return (room, 1);
        }
        // One line says which part this is.
        let room = room.saturating_sub(1).max(1);
        (room, self.page.body.len().div_ceil(room))
    }

    pub(super) fn prompt_line(&self) -> String {
        let prompt = &self.page.prompt;
        if self.page.secret {
            return prompt.clone();
        }
        let room = COLUMNS.saturating_sub(prompt.len());
        if self.typed.len() <= room {
            return format!("{prompt}{}", self.typed);
        }
        // Only ASCII is typed, so that bytes are columns.
        let tail = self.typed.len() - room.saturating_sub(1);
        format!("{prompt}<{}", self.typed.get(tail..).unwrap_or_default())
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let page = &self.page;
        let (room, pages) = self.pages();
        let at = page.at.min(pages - 1);
        let name = if self.box_name.is_empty() { "reprise" } else { self.box_name.as_str() };
        let mut lines = vec![fit(&format!("{name}: {}", page.title), COLUMNS), "-".repeat(COLUMNS)];
        lines.extend(page.body.iter().skip(at * room).take(room).cloned());
        if !self.mode.plain {
            let end = 2 + room;
            lines.resize(end.max(lines.len()), String::new());
        }
        if pages > 1 {
            lines.push(format!("-- part {} of {pages}: n next, p previous --", at + 1));
        }
        lines.extend(page.fixed.iter().cloned());
        lines.extend(page.note.iter().cloned());
        lines.push(self.prompt_line());
        lines
    }

    /// Bytes that bring the terminal to what [`Self::lines`] says.
    pub(super) fn output(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.echo);
        if !self.raw.is_empty() {
            for line in self.raw.drain(..) {
                out.extend(plain(&line).bytes());
                out.extend(b"\r\n");
            }
            // What was on the screen has scrolled away.
            self.printed = Page::default();
        }
        let redraw = std::mem::replace(&mut self.redraw, Redraw::Nothing);
        if self.mode.plain {
            self.print(redraw, &mut out)
        } else {
            self.paint(redraw, &mut out)
        }
        out
    }

    fn paint(&self, redraw: Redraw, out: &mut Vec<u8>) {
        match redraw {
            Redraw::Nothing => return,
            Redraw::Prompt => {
                out.extend(format!("\r{}\x1b[K", self.prompt_line()).bytes());
                return;
            }
            Redraw::Quiet | Redraw::Page => out.extend(b"\x1b[H"),
            // Colours and scroll region as a terminal has them at first: noise may have set them.
            Redraw::Anew => out.extend(b"\x1b[0m\x1b[r\x1b[2J\x1b[H"),
        }
        let lines = self.lines();
        for (n, line) in lines.iter().enumerate() {
            let end: &[u8] = if n + 1 == lines.len() { b"\x1b[K\x1b[J" } else { b"\x1b[K\r\n" };
            out.extend(line.bytes());
            out.extend(end);
        }
    }

    fn print(&mut self, redraw: Redraw, out: &mut Vec<u8>) {
        let shown = Page { note: Vec::new(), prompt: String::new(), ..self.page.clone() };
        let known = shown == self.printed;
        let lines = match redraw {
            Redraw::Nothing | Redraw::Quiet => return,
            Redraw::Prompt => vec![self.prompt_line()],
            // The page stands above: what is new is enough.
            Redraw::Page if known => self.page.note.iter().cloned().chain([self.prompt_line()]).collect(),
            Redraw::Page | Redraw::Anew => {
                self.printed = shown;
                self.lines()
            }
        };
        out.extend(b"\r\n");
        out.extend(lines.join("\r\n").bytes());
    }
}

/// A dialog's hand on the console.
#[derive(Clone)]
pub(super) struct Ui(Rc<RefCell<Shared>>);

/// What came of a menu.
pub(super) enum Chosen {
    Item(&'static Item),
    /// Enter alone: look again.
    Again,
}

impl Ui {
    pub(super) fn new(shared: Rc<RefCell<Shared>>) -> Self {
        Self(shared)
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.0.borrow().now_ms
    }

    pub(super) fn mode(&self) -> Mode {
        self.0.borrow().mode
    }

    pub(super) fn toggle_plain(&self) {
        let mut shared = self.0.borrow_mut();
        shared.mode.plain = !shared.mode.plain;
        shared.wants(Redraw::Anew);
    }

    pub(super) fn set_at_home(&self, at_home: bool) {
        self.0.borrow_mut().at_home = at_home;
    }

    pub(super) fn set_box_name(&self, name: &str) {
        self.0.borrow_mut().box_name = plain(name);
    }

    pub(super) fn box_name(&self) -> String {
        self.0.borrow().box_name.clone()
    }

    /// The next event.
    pub(super) async fn event(&self) -> Event {
        poll_fn(|_| match self.0.borrow_mut().events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        })
        .await
    }

    /// Says something below the next page.
    pub(super) fn say(&self, lines: Vec<String>) {
        self.0.borrow_mut().note = lines;
    }

    pub(super) fn say_line(&self, text: &str) {
        self.say(wrap(text, 2));
    }

    pub(super) fn take_note(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().note)
    }

    /// Shows a page with a prompt. What was typed for another prompt is dropped.
    pub(super) fn draw(&self, title: &str, body: &[String], fixed: &[String], note: &[String], prompt: &str) {
        self.put(title, body, fixed, note, (prompt, false), Redraw::Page);
    }

    /// Shows the page of before with other content, by itself.
    pub(super) fn redraw(&self, title: &str, body: &[String], fixed: &[String], note: &[String], prompt: &str) {
        self.put(title, body, fixed, note, (prompt, false), Redraw::Quiet);
    }

    fn put(&self, title: &str, body: &[String], fixed: &[String], note: &[String], prompt: (&str, bool), r: Redraw) {
        let mut shared = self.0.borrow_mut();
        let line = |l: &String| fit(l, COLUMNS);
        let page = Page {
            title: plain(title),
            body: body.iter().map(line).collect(),
            fixed: fixed.iter().map(line).collect(),
            note: note.iter().take(NOTE_LINES_MAX).map(line).collect(),
            prompt: fit(prompt.0, PROMPT_COLUMNS_MAX),
            secret: prompt.1,
            at: if shared.page.title == plain(title) { shared.page.at } else { 0 },
        };
        if page.prompt != shared.page.prompt || page.title != shared.page.title {
            shared.typed.clear();
        }
        shared.page = page;
        shared.wants(r);
    }

    /// Has a plain terminal shown all of the next page, also where it is the one above.
    pub(super) fn show_all_again(&self) {
        self.0.borrow_mut().printed = Page::default();
    }

    /// Turns to the next part of a long page, or to the one before. False where there is none.
    pub(super) fn turn(&self, line: &str) -> bool {
        let mut shared = self.0.borrow_mut();
        let (_, pages) = shared.pages();
        let at = shared.page.at.min(pages - 1);
        shared.page.at = match line {
            "n" | "N" if at + 1 < pages => at + 1,
            "p" | "P" if at > 0 => at - 1,
            "n" | "N" | "p" | "P" if pages > 1 => at,
            _ => return false,
        };
        shared.page.note.clear();
        shared.wants(Redraw::Page);
        true
    }

    /// Goes to the last part of a long page.
    pub(super) fn turn_to_end(&self) {
        let mut shared = self.0.borrow_mut();
        let (_, pages) = shared.pages();
        shared.page.at = pages - 1;
    }

    /// Has the box asked; the answer comes as an event of this number.
    pub(super) fn start<R>(&self, ask: Ask<R>) -> Waiting<R> {
        let mut shared = self.0.borrow_mut();
        shared.next_request += 1;
        let id = shared.next_request;
        debug_assert_eq!(ask.call.weight(), Weight::Look);
        shared.requests.push((id, ask.call));
        Waiting { id, take: ask.take }
    }

    /// Asks the box for something that changes nothing.
    pub(super) async fn get<R>(&self, ask: Ask<R>) -> Result<R, Refusal> {
        assert_ne!(ask.call.weight(), Weight::Change, "{} needs a confirmation", ask.call.name());
        self.wait_for(ask).await
    }

    /// Asks the box to change something.
    pub(super) async fn change<R>(&self, ask: Ask<R>, _: &Confirmed) -> Result<R, Refusal> {
        self.wait_for(ask).await
    }

    async fn wait_for<R>(&self, ask: Ask<R>) -> Result<R, Refusal> {
        let waiting = {
            let mut shared = self.0.borrow_mut();
            shared.next_request += 1;
            let id = shared.next_request;
            shared.requests.push((id, ask.call));
            // Nobody shall type for a question that is no longer asked.
            if shared.page.prompt != BUSY_PROMPT {
                shared.page.prompt = BUSY_PROMPT.to_owned();
                shared.page.secret = false;
                shared.typed.clear();
                shared.wants(Redraw::Prompt);
            }
            Waiting { id, take: ask.take }
        };
        let since = self.now_ms();
        let mut told = false;
        loop {
            match self.event().await {
                Event::Answer(id, result) if id == waiting.id => return waiting.answer(result),
                Event::Tick if !told && self.now_ms().saturating_sub(since) >= BUSY_MS => {
                    told = true;
                    let mut shared = self.0.borrow_mut();
                    shared.page.note = vec!["Please wait ... (Esc stops waiting, not the box)".to_owned()];
                    shared.wants(Redraw::Page);
                }
                Event::Back => {
                    return Err(Refusal {
                        code: None,
                        message: "You stopped waiting. The box may do it nevertheless.".to_owned(),
                        what_to_do: "look whether it did".to_owned(),
                    });
                }
                // Lines typed meanwhile were for what is no longer on the screen.
                _ => {}
            }
        }
    }

    /// Lets somebody choose from a menu, below what `body` says.
    pub(super) async fn choose(&self, menu: &'static Menu, body: &[String]) -> Step<Chosen> {
        let mut note = self.take_note();
        let fixed = menu.lines();
        loop {
            self.draw(menu.title, body, &fixed, &note, Menu::PROMPT);
            let line = self.line().await?;
            let line = line.trim();
            if line.is_empty() {
                self.show_all_again();
                return Ok(Chosen::Again);
            }
            if let Some(item) = menu.find(line) {
                return Ok(Chosen::Item(item));
            }
            if matches!(line, "0" | "q" | "Q" | ".") {
                return Err(Back);
            }
            if self.turn(line) {
                continue;
            }
            note =
                wrap(&format!("{:?} is none of the choices: type one of the numbers, then Enter.", fit(line, 20)), 2);
        }
    }

    /// A line that is typed.
    pub(super) async fn line(&self) -> Step<String> {
        loop {
            match self.event().await {
                Event::Line(line) => return Ok(line),
                Event::Back => return Err(Back),
                _ => {}
            }
        }
    }

    /// Shows text, in parts where it is long, until somebody goes back.
    pub(super) async fn show(&self, title: &str, body: &[String], at_end: bool) -> Step<()> {
        let body: Vec<String> = if body.is_empty() { vec!["There is nothing.".to_owned()] } else { body.to_vec() };
        self.draw(title, &body, &[], &[], "Enter: next part, p: previous, q: back ");
        if at_end {
            self.turn_to_end();
        }
        loop {
            let line = self.line().await?;
            match line.trim() {
                "" => {
                    if !self.turn("n") {
                        return Ok(());
                    }
                }
                "q" | "Q" | "0" | "." => return Ok(()),
                other => {
                    self.turn(other);
                }
            }
        }
    }

    /// The confirmation, if `line` is the word for it.
    pub(super) fn confirmed_by(line: &str, word: &str) -> Option<Confirmed> {
        (line.trim() == word).then_some(Confirmed(()))
    }

    /// Writes lines that scroll through, as they are; waits until they are on the line. Esc ends it.
    pub(super) async fn write(&self, lines: Vec<String>) -> Step<()> {
        {
            let mut shared = self.0.borrow_mut();
            shared.raw = lines;
            shared.wants_written = true;
        }
        let outcome = loop {
            match self.event().await {
                Event::Written => break Ok(()),
                Event::Back => break Err(Back),
                _ => {}
            }
        };
        self.0.borrow_mut().wants_written = false;
        outcome
    }
}

/// A request under way.
pub(super) struct Waiting<R> {
    id: u64,
    take: fn(Answer) -> Option<R>,
}

impl<R> Waiting<R> {
    pub(super) fn is(&self, id: u64) -> bool {
        self.id == id
    }

    pub(super) fn answer(&self, result: Result<Box<Answer>, Refusal>) -> Result<R, Refusal> {
        (self.take)(*result?).ok_or_else(|| Refusal {
            code: None,
            message: "the box gave the answer to another question".to_owned(),
            what_to_do: String::new(),
        })
    }
}

/// A row of questions. What was answered stays on the screen.
pub(super) struct Form<'a> {
    ui: &'a Ui,
    title: String,
    body: Vec<String>,
}

impl<'a> Form<'a> {
    pub(super) fn new(ui: &'a Ui, title: &str) -> Self {
        Self { ui, title: title.to_owned(), body: Vec::new() }
    }

    /// Adds a paragraph.
    pub(super) fn say(&mut self, text: &str) {
        self.body.extend(wrap(text, 2));
    }

    /// Adds lines as they are.
    pub(super) fn list(&mut self, lines: impl IntoIterator<Item = String>) {
        self.body.extend(lines);
    }

    /// Forgets what is on the screen so far.
    pub(super) fn clear(&mut self) {
        self.body.clear();
    }

    /// Asks until the answer is right. Enter alone takes `default`, where there is one.
    pub(super) async fn ask<T>(
        &mut self,
        field: &'static Field,
        default: Option<&str>,
        check: impl Fn(&str) -> Checked<T>,
    ) -> Step<T> {
        let (value, text) = self.prompt(field, field.label, default, check).await?;
        if !field.secret {
            self.body.push(fit(&format!("  {}: {text}", field.label), COLUMNS));
        }
        Ok(value)
    }

    /// Has a number of a list chosen; a list of one needs no choice.
    pub(super) async fn pick(&mut self, field: &'static Field, items: &[String]) -> Step<usize> {
        let before = self.body.len();
        let numbered = items.iter().enumerate().map(|(n, item)| fit(&format!("{:>3}  {item}", n + 1), COLUMNS));
        self.body.extend(numbered);
        let default = (items.len() == 1).then_some("1");
        let outcome = self.prompt(field, field.label, default, |text| super::field::pick(text, items.len())).await;
        self.body.truncate(before);
        let (at, _) = outcome?;
        if let Some(item) = items.get(at) {
            self.body.push(fit(&format!("  {item}"), COLUMNS));
        }
        Ok(at)
    }

    /// Waits until `word` is typed. `yes` may be written large; all else is compared as it stands.
    pub(super) async fn confirm(&mut self, word: &str) -> Step<Confirmed> {
        let word = plain(word);
        let check = |text: &str| {
            let same = text == word || (word == "yes" && text.eq_ignore_ascii_case("yes"));
            if same { Ok(()) } else { Err(format!("Nothing was done. Type {word} for it, or . to go back.")) }
        };
        self.prompt(&WORD, &format!("{} {word}", WORD.label), None, check).await?;
        Ok(Confirmed(()))
    }

    /// Asks for what nobody types by chance and only who means it knows, such as the code that another box shows.
    pub(super) async fn ask_confirming<T>(
        &mut self,
        field: &'static Field,
        check: impl Fn(&str) -> Checked<T>,
    ) -> Step<(T, Confirmed)> {
        Ok((self.ask(field, None, check).await?, Confirmed(())))
    }

    async fn prompt<T>(
        &self,
        field: &'static Field,
        label: &str,
        default: Option<&str>,
        check: impl Fn(&str) -> Checked<T>,
    ) -> Step<(T, String)> {
        let mut note = Vec::new();
        let prompt = match default {
            Some(default) if !default.is_empty() => format!("{label} [{}]: ", fit(default, 40)),
            _ => format!("{label}: "),
        };
        // A prompt that would leave no room to type stands above as a line.
        let mut fixed = wrap(field.format, 2);
        let short = if prompt.len() <= PROMPT_COLUMNS_MAX {
            prompt
        } else {
            fixed.extend(wrap(&prompt, 2));
            "> ".to_owned()
        };
        fixed.push("Esc or . goes back.".to_owned());
        fixed.insert(0, String::new());
        loop {
            self.ui.put(&self.title, &self.body, &fixed, &note, (&short, field.secret), Redraw::Page);
            let line = self.ui.line().await?;
            let line = if field.secret { line.as_str() } else { line.trim() };
            if line == "." {
                return Err(Back);
            }
            let answer = match default {
                Some(default) if line.is_empty() => default,
                _ => line,
            };
            match check(answer) {
                Ok(value) => return Ok((value, answer.to_owned())),
                Err(_) if self.ui.turn(answer) => {}
                Err(_) if matches!(answer, "q" | "Q" | "0") => return Err(Back),
                Err(_) if answer.is_empty() => note = vec!["An answer is needed.".to_owned()],
                Err(wrong) => note = wrap(&wrong, 2),
            }
        }
    }

    /// A row of a table, for [`Self::list`].
    pub(super) fn row(cells: &[(&str, usize)]) -> String {
        let cells: Vec<String> = cells.iter().map(|(text, columns)| column(text, *columns)).collect();
        fit(cells.join(" ").trim_end(), COLUMNS)
    }
}
