//! Joins a [`Screen`] to a terminal and to the box. All that the console does with the world is here.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::termios::{
    ControlFlags, InputFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr,
};
use reprise_api::{Client, Target};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::alone::Reach;
use super::screen::{Input, Mode, Screen};

/// Between two ticks of the screen.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks at the lines of a serial port.
const CABLE_LOOK: Duration = Duration::from_secs(2);
/// After a terminal went away, such as a USB adapter that was pulled out.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// Reads that wait for the screen. More stay in the kernel's buffer, and what overflows there is noise.
const READS_MAX: usize = 16;
/// Answers that wait for the screen; a request each, and a screen has two or three under way.
const ANSWERS_MAX: usize = 16;
/// Where the kernel says how the lines of its serial ports are.
const SERIAL_LINES: &str = "/proc/tty/driver/serial";

/// What a console is joined to.
#[derive(Debug, Clone)]
pub struct Options {
    /// The box's local socket.
    pub socket: PathBuf,
    /// The socket of the machine's first process, which is asked where the daemon does not answer; none on a Linux of
    /// one's own.
    pub system: Option<PathBuf>,
    /// The terminal: a path, or a name below `/dev`; standard input and output if absent.
    pub tty: Option<PathBuf>,
    /// No escape codes.
    pub plain: bool,
}

enum Ended {
    /// The person left, or the process is to end.
    Over,
    /// The terminal went away.
    Gone,
}

/// Runs a console. On a terminal of its own it ends only with the process; on standard input when the person leaves.
///
/// # Errors
/// The terminal cannot be used.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(Target::Socket(options.socket.clone()));
    let reach = Reach { client, system: options.system.clone() };
    let term = std::env::var("TERM").ok();
    let Some(tty) = &options.tty else {
        let dumb = term.is_none_or(|t| t == "dumb") || !io::stdout().is_terminal();
        let mode = Mode { plain: options.plain || dumb, may_quit: true };
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let _restore = if input.is_terminal() { Some(Restore::raw(&input)?) } else { None };
        runtime.block_on(session(&reach, input, output, mode, None))?;
        // A reader may still wait for a key.
        runtime.shutdown_background();
        return Ok(());
    };
    let path = if tty.is_absolute() { tty.clone() } else { Path::new("/dev").join(tty) };
    let mode = Mode { plain: options.plain || term.is_some_and(|t| t == "dumb"), may_quit: false };
    open(&path).with_context(|| format!("open {}", path.display()))?;
    loop {
        if let Ok(terminal) = open(&path) {
            let output = terminal.try_clone()?;
            let cable = Cable::of(&path);
            if let Ended::Over = runtime.block_on(session(&reach, terminal, output, mode, cable))? {
                return Ok(());
            }
        }
        std::thread::sleep(OPEN_AGAIN);
    }
}

/// Opens a terminal and sets it to 115200 baud, 8 data bits, no parity, 1 stop bit, without waiting for a carrier.
fn open(path: &Path) -> anyhow::Result<File> {
    // Opening a serial line waits for its carrier, and most cables have none.
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let terminal = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
    let mut settings = tcgetattr(&terminal).context("read the settings of the terminal")?;
    raw(&mut settings);
    let mut settings = at_115200_baud(settings);
    settings.control_flags.remove(ControlFlags::CSIZE | ControlFlags::PARENB | ControlFlags::CSTOPB);
    settings.control_flags.remove(ControlFlags::CRTSCTS);
    settings.control_flags.insert(ControlFlags::CS8 | ControlFlags::CLOCAL | ControlFlags::CREAD);
    tcsetattr(&terminal, SetArg::TCSANOW, &settings).context("set the terminal")?;
    fcntl(&terminal, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(terminal)
}

fn raw(settings: &mut Termios) {
    cfmakeraw(settings);
    // A stray XOFF must not silence the line, and a break must not become a signal.
    settings.input_flags.remove(InputFlags::IXON | InputFlags::IXOFF | InputFlags::BRKINT);
    settings.input_flags.insert(InputFlags::IGNBRK);
    settings.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    settings.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
}

/// Not by `cfsetspeed`: it has versions, and a program that is linked statically finds none of them.
fn at_115200_baud(settings: Termios) -> Termios {
    let mut raw = libc::termios::from(settings);
    raw.c_cflag = raw.c_cflag & !libc::CBAUD | libc::B115200;
    (raw.c_ispeed, raw.c_ospeed) = (libc::B115200, libc::B115200);
    raw.into()
}

/// Gives a terminal back as it was.
struct Restore {
    terminal: File,
    before: Termios,
}

impl Restore {
    fn raw(terminal: &File) -> anyhow::Result<Self> {
        let terminal = terminal.try_clone()?;
        let before = tcgetattr(&terminal)?;
        let mut settings = before.clone();
        raw(&mut settings);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &settings)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // Nothing more can be done where it fails: the process ends.
        let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
        let _ = self.terminal.write_all(b"\r\n");
    }
}

async fn session(
    reach: &Reach,
    input: File,
    mut output: File,
    mode: Mode,
    mut cable: Option<Cable>,
) -> anyhow::Result<Ended> {
    let begin = Instant::now();
    let now_ms = || u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut screen = Screen::new(now_ms(), mode);
    let mut bytes = read_thread(input)?;
    let (answer_to, mut answers) = mpsc::channel(ANSWERS_MAX);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut written = false;
    loop {
        for (id, call) in screen.take_requests() {
            let (reach, answer_to) = (reach.clone(), answer_to.clone());
            tokio::spawn(async move {
                let result = reach.carry_out(call).await.map(Box::new);
                // A screen that is gone wants no answer.
                let _ = answer_to.send((id, result)).await;
            });
        }
        let out = screen.take_output();
        if !out.is_empty() && output.write_all(&out).and_then(|()| output.flush()).is_err() {
            return Ok(Ended::Gone);
        }
        written |= screen.wants_written();
        if screen.is_over() {
            return Ok(Ended::Over);
        }
        tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(Ended::Over),
            read = bytes.recv() => match read {
                Some(read) => screen.handle(now_ms(), Input::Bytes(&read)),
                None => return Ok(Ended::Gone),
            },
            Some((id, result)) = answers.recv() => screen.handle(now_ms(), Input::Answer(id, result)),
            _ = ticks.tick() => {
                if cable.as_mut().is_some_and(Cable::was_plugged) {
                    screen.handle(now_ms(), Input::Cable);
                }
                screen.handle(now_ms(), Input::Tick);
            }
            () = std::future::ready(()), if written => {
                written = false;
                if screen.wants_written() {
                    screen.handle(now_ms(), Input::Written);
                }
            }
        }
    }
}

fn read_thread(mut input: File) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (to, from) = mpsc::channel(READS_MAX);
    std::thread::Builder::new().name("console-keys".to_owned()).spawn(move || {
        let mut buffer = [0; 256];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => {
                    let read = buffer.get(..n).unwrap_or_default().to_vec();
                    if to.blocking_send(read).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })?;
    Ok(from)
}

/// Watches whether somebody plugs a cable into a serial port.
struct Cable {
    port: String,
    looked: Instant,
    plugged: bool,
}

impl Cable {
    /// Of `/dev/ttyS0` and the like; other terminals have no such lines.
    fn of(path: &Path) -> Option<Self> {
        let port = path.file_name()?.to_str()?.strip_prefix("ttyS")?.to_owned();
        let plugged = is_plugged(&std::fs::read_to_string(SERIAL_LINES).ok()?, &port);
        Some(Self { port, looked: Instant::now(), plugged })
    }

    fn was_plugged(&mut self) -> bool {
        if self.looked.elapsed() < CABLE_LOOK {
            return false;
        }
        self.looked = Instant::now();
        let text = std::fs::read_to_string(SERIAL_LINES).unwrap_or_default();
        let before = std::mem::replace(&mut self.plugged, is_plugged(&text, &self.port));
        self.plugged && !before
    }
}

/// True if the other end of serial port number `port` says that it is there (data set ready, or carrier).
fn is_plugged(text: &str, port: &str) -> bool {
    let line = text.lines().find_map(|l| l.strip_prefix(port)?.strip_prefix(':'));
    line.is_some_and(|l| l.split([' ', '|']).any(|word| matches!(word, "DSR" | "CD")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugged_cable_is_seen() {
        let text = "serinfo:1.0 driver revision:\n\
            0: uart:16550A port:000003F8 irq:4 tx:11 rx:0 RTS|DTR\n\
            1: uart:16550A port:000002F8 irq:3 tx:0 rx:0 RTS|CTS|DTR|DSR|CD\n\
            10: uart:unknown port:00000000 irq:0\n";
        for (port, plugged) in [("0", false), ("1", true), ("10", false), ("7", false)] {
            assert_eq!(is_plugged(text, port), plugged, "{port}");
        }
    }

    #[test]
    fn a_terminal_is_set_to_its_speed() {
        let pty = nix::pty::openpty(None, None).expect("a terminal");
        let path = nix::unistd::ttyname(&pty.slave).expect("its name");
        let opened = open(&path).expect("it opens");
        let settings = libc::termios::from(tcgetattr(&opened).expect("its settings"));
        assert_eq!(settings.c_cflag & libc::CBAUD, libc::B115200);
        assert_eq!(settings.c_cflag & libc::CSIZE, libc::CS8);
    }
}
