//! The console at a terminal, as a person with a cable has it: every choice of every menu is visited, and every
//! question is answered wrongly first, on a full screen and on a plain one.
#![allow(clippy::unwrap_used)]

mod serial_double;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reprise_api::server::Waiting;
use reprise_api::{
    BoxService, Done, GroupState, ImageSource, ImageStatus, PoolPlace, Reset, ResetLevel, Role, SystemCall,
    SystemReply, VolumeState,
};
use reprise_console::serial::field::{FIELDS, Field};
use reprise_console::serial::menu::{ADMIN, Act, DISKS, Go, HOME, MIRRORS, Menu, NETWORK, RESET, VOLUMES};
use reprise_console::serial::{Options, run};
use serial_double::{CODE, Double, FOREIGN_SERIAL, Served, serve};

/// Longest wait for what has to appear; the console itself answers in milliseconds.
const WAIT: Duration = Duration::from_secs(20);

struct Seen {
    screen: vt100::Parser,
    all: Vec<u8>,
    since_send: Vec<u8>,
}

/// A terminal with a console at its other end.
struct Terminal {
    master: File,
    seen: Arc<Mutex<Seen>>,
    plain: bool,
}

impl Terminal {
    fn start<S: BoxService>(served: &Served<S>, plain: bool) -> Self {
        Self::at(served.socket.clone(), None, plain)
    }

    /// A console of a box whose API is at `socket`, and whose first process is at `system`.
    fn at(socket: PathBuf, system: Option<PathBuf>, plain: bool) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let tty: PathBuf = nix::unistd::ttyname(&pty.slave).unwrap();
        let options = Options { socket, system, tty: Some(tty), plain };
        std::thread::spawn(move || run(&options));
        let master = File::from(pty.master);
        let mut reader = master.try_clone().unwrap();
        let screen = vt100::Parser::new(24, 80, 0);
        let seen = Arc::new(Mutex::new(Seen { screen, all: Vec::new(), since_send: Vec::new() }));
        let to = seen.clone();
        // Held open, so that the terminal lives also before the console has opened it.
        let slave = pty.slave;
        std::thread::spawn(move || {
            let _slave = slave;
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                let mut seen = to.lock().unwrap();
                seen.screen.process(&buffer[..n]);
                seen.all.extend(&buffer[..n]);
                seen.since_send.extend(&buffer[..n]);
            }
        });
        Self { master, seen, plain }
    }

    /// What a person has before their eyes: the screen, or on a plain terminal what came since they typed.
    fn text(&self) -> String {
        let seen = self.seen.lock().unwrap();
        if self.plain {
            return String::from_utf8_lossy(&seen.since_send).into_owned();
        }
        seen.screen.screen().contents()
    }

    /// The line where is typed.
    fn prompt(&self) -> String {
        let seen = self.seen.lock().unwrap();
        let (row, _) = seen.screen.screen().cursor_position();
        seen.screen.screen().rows(0, 80).nth(row.into()).unwrap_or_default()
    }

    fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !is(self) {
            assert!(begin.elapsed() < WAIT, "no {what:?} within {WAIT:?}:\n{}\nprompt: {}", self.text(), self.prompt());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn see(&self, text: &str) {
        self.until(text, |t| t.text().contains(text));
    }

    fn key(&mut self, keys: &[u8]) {
        self.seen.lock().unwrap().since_send.clear();
        self.master.write_all(keys).unwrap();
    }

    fn line(&mut self, text: &str) {
        self.key(format!("{text}\r").as_bytes());
    }

    /// True when something came since the last key, and the line where is typed is empty but for a prompt like `is`.
    fn asks(&self, is: impl Fn(&str) -> bool) -> bool {
        !self.seen.lock().unwrap().since_send.is_empty() && is(self.prompt().trim_end())
    }

    fn prompt_is(&self, label: &str) {
        let (bare, with_default) = (format!("{label}:"), format!("{label} ["));
        self.until(&format!("prompt {label}"), |t| {
            t.asks(|prompt| {
                let above = || t.seen.lock().unwrap().screen.screen().contents().contains(&with_default);
                prompt == bare
                    || (prompt.starts_with(&with_default) && prompt.ends_with("]:"))
                    || (prompt == ">" && above())
            })
        });
    }

    fn at_menu(&self, menu: &Menu) {
        let home = std::ptr::eq(menu, &HOME);
        let wanted = if home { "Number, then Enter (? help):" } else { "Number, then Enter (0 goes back):" };
        self.until(menu.title, |t| {
            t.asks(|p| p == wanted) && (t.plain || t.text().contains(&format!(": {}", menu.title)))
        });
    }
}

/// A step of a dialog.
enum Step {
    /// Type a line at a question, where it is right.
    Good(&'static str, &'static str),
    /// Type a line that is wrong, and be told so.
    Bad(&'static str, &'static str, &'static str),
    /// Type the word that is asked for.
    Word(&'static str),
    /// Have something on the screen.
    See(&'static str),
    /// Type something.
    Key(&'static [u8]),
}
use Step::{Bad, Good, Key, See, Word};

/// What is typed for a choice, and what the box has to have been asked then (parts of it, in order).
fn script(act: Act) -> (Vec<Step>, Vec<&'static str>) {
    let pick = |what: &'static str, number: &'static str| vec![Bad(what, "99", "no number from 1"), Good(what, number)];
    let with = |mut first: Vec<Step>, rest: Vec<Step>| {
        first.extend(rest);
        first
    };
    let addresses = || {
        vec![
            Bad("IPv4", "192.0.2.300/24", "no IPv4 address"),
            Good("IPv4", "192.0.2.9/24 192.0.2.10/24"),
            Bad("IPv4 gateway", "2001:db8::1", "no IPv4 address"),
            Good("IPv4 gateway", "192.0.2.1"),
            Bad("IPv6", "2001:db8::7", "with prefix length"),
            Good("IPv6", "2001:db8::7/64"),
            Bad("IPv6 gateway", "192.0.2.1", "no IPv6 address"),
            Good("IPv6 gateway", ""),
            Bad("Largest packet", "99999", "no number from 1280"),
            Good("Largest packet", "9000"),
            Word("yes"),
            See("In 1"),
            Key(b"kept\r"),
            See("not the word"),
            Key(b"keep\r"),
            See("The network is kept."),
        ]
    };
    match act {
        Act::PairListen => (
            vec![
                See(CODE),
                See("192.0.2.7:3261"),
                See("0011 2233"),
                See("Paired with turin"),
                See("ffee ddcc"),
                Key(b"q\r"),
            ],
            vec!["listen"],
        ),
        Act::PairDial => (
            vec![
                Bad("Address of the other box", "192.0.2", "no address"),
                Good("Address of the other box", "192.0.2.8"),
                Bad("Code shown by the other box", "1234", "9 letters and digits"),
                Good("Code shown by the other box", CODE),
                See("Paired with turin"),
                Key(b"q\r"),
            ],
            vec!["dial 192.0.2.8:3261 4F7-K2M-9TX"],
        ),
        Act::PairCancel => (vec![See("The code is void.")], vec!["cancel"]),
        Act::PeerShow => (with(pick("Number of the box", "1"), vec![See("ffee ddcc"), Key(b"q\r")]), vec![]),
        Act::PeerShare => (
            with(
                pick("Number of the box", "1"),
                vec![
                    Bad("It may make mirrors here", "maybe", "none of: yes, no"),
                    Good("It may make mirrors here", "yes"),
                    Bad("Groups at most", "many", "no number"),
                    Good("Groups at most", "3"),
                    Bad("Space at most", "10X", "not a size"),
                    Good("Space at most", "2T"),
                    Word("yes"),
                    See("at most 3 groups, at most 2 TiB."),
                ],
            ),
            vec!["peer turin may have at most 3 groups, at most 2 TiB"],
        ),
        Act::PeerForget => (
            with(
                pick("Number of the box", ""),
                vec![
                    See("LOST"),
                    Bad("To go on, type FORGET turin", "yes", "Nothing was done"),
                    Word("FORGET turin"),
                    See("Done."),
                ],
            ),
            vec!["remove peer turin"],
        ),
        Act::PeerAddress => (
            with(
                pick("Number of the box", "1"),
                vec![
                    Bad("Address of the other box", "192.0.2", "no address"),
                    Good("Address of the other box", "192.0.2.9:4000"),
                    Word("yes"),
                    See("is tried at 192.0.2.9:4000 first."),
                ],
            ),
            vec!["peer turin at 192.0.2.9:4000"],
        ),
        Act::VolumeMirrored => (
            vec![
                Bad("Name of the volume", "Mail!", "no name"),
                Good("Name of the volume", "new"),
                Bad("Size", "10X", "no size"),
                Bad("Size", "1000", "multiple of 4096"),
                Good("Size", "10G"),
                See("mirrored to turin"),
                Word("yes"),
                See("then mirrored to turin"),
            ],
            vec!["create new new 10 GiB thin false 512e to turin"],
        ),
        Act::VolumeCreate => (
            vec![
                Good("Name of the volume", ""),
                Good("Size", "1.5G"),
                Bad("Group", "a b", "no name"),
                Good("Group", "pg"),
                Bad("Kind", "fat", "none of: thick, thin"),
                Good("Kind", "thin"),
                Bad("Blocks that hosts see", "1024", "512e, 512n or 4kn"),
                Good("Blocks that hosts see", "4kn"),
                Word("yes"),
                See("Volume disk1 is made."),
            ],
            vec!["create disk1 pg 1.5 GiB thin true 4kn"],
        ),
        Act::VolumeResize => (
            with(
                pick("Number of the volume", "1"),
                vec![Bad("Size", "1G", "is not more than"), Good("Size", "60G"), Word("yes"), See("grows to 60 GiB")],
            ),
            vec!["resize pg-data 60 GiB"],
        ),
        Act::VolumeAccess => (
            with(
                pick("Number of the volume", "1"),
                vec![
                    Bad("Hosts may", "fly", "none of: read, write"),
                    Good("Hosts may", ""),
                    Word("yes"),
                    See("is read-only."),
                ],
            ),
            vec!["set pg-data read-only true"],
        ),
        Act::VolumeAdopt => (
            with(
                pick("Number of the disk", "2"),
                vec![
                    Good("Name of the volume", "old"),
                    Good("Group", ""),
                    Word("yes"),
                    See("/dev/sdd is the volume old"),
                ],
            ),
            vec!["adopt old old /dev/sdd"],
        ),
        Act::VolumeRemove => (
            with(pick("Number of the volume", "2"), vec![See("50 GiB of data"), Word("REMOVE pg-old"), See("Done.")]),
            vec!["remove volume pg-old"],
        ),
        Act::VolumeErase => (
            with(
                pick("Number of the volume", "1"),
                vec![
                    See("LOST"),
                    Bad("To go on, type ERASE pg-data", "ERASE pg", "Nothing was done"),
                    Word("ERASE pg-data"),
                    See("job 7"),
                ],
            ),
            vec!["erase volume pg-data"],
        ),
        Act::MirrorAdd => (
            with(pick("Number of the group", ""), vec![Word("yes"), See("files is mirrored to turin.")]),
            vec!["mirror group files to peer turin"],
        ),
        Act::MirrorPause => (
            with(pick("Number of the mirror", "1"), vec![Word("yes"), See("is paused.")]),
            vec!["pause group pg to peer turin"],
        ),
        Act::MirrorResume => (
            with(pick("Number of the mirror", "1"), vec![Word("yes"), See("goes on.")]),
            vec!["resume group pg to peer turin"],
        ),
        Act::MirrorEnd => (
            with(pick("Number of the mirror", "1"), vec![See("LOST"), Word("END pg"), See("Done.")]),
            vec!["remove mirror of group pg to peer turin"],
        ),
        Act::ImageGiveUp => (
            with(
                pick("Number of the image", ""),
                vec![
                    See("LOST"),
                    Bad("To go on, type GIVE UP mail", "yes", "Nothing was done"),
                    Word("GIVE UP mail"),
                    See("Done."),
                ],
            ),
            vec!["delete group mail"],
        ),
        Act::DiskTake => (
            with(
                pick("Number of the disk", "3"),
                vec![
                    See("LOST: everything"),
                    Bad("To go on, type WD-WX31A0", "yes", "Nothing was done"),
                    Word(FOREIGN_SERIAL),
                    See("is being made on /dev/sdd"),
                ],
            ),
            vec!["take /dev/sdd Some(\"WD-WX31A0\")"],
        ),
        Act::InitiatorAdd => (
            vec![
                Bad("Name of the host", "bob", "no iSCSI name"),
                Good("Name of the host", "iqn.1993-08.org.debian:01:abc"),
                Bad("Groups it may use", "PG", "no name"),
                Good("Groups it may use", "pg files"),
                Bad("Addresses it may come from", "here", "no address or network"),
                Good("Addresses it may come from", "192.0.2.0/24"),
                Bad("CHAP name", LONG, "longer than 255"),
                Good("CHAP name", "host"),
                Bad("CHAP secret", "short", "12 to 255"),
                Good("CHAP secret", "secret-of-host"),
                Bad("CHAP secret again", "another-secret", "another one"),
                Good("CHAP secret again", "secret-of-host"),
                Bad("CHAP name of the box", LONG, "longer than 255"),
                Good("CHAP name of the box", "lyon"),
                Bad("CHAP secret of the box", "secret-of-host", "has to differ"),
                Good("CHAP secret of the box", "secret-of-box"),
                Word("yes"),
                See("is listed and may log in. Mind: the secret is"),
            ],
            vec![
                "\"groups\":[\"pg\",\"files\"],\"addresses\":[\"192.0.2.0/24\"],\"chap\":{\"user\":\"host\",\"secret\":\"secret-of-host\"",
            ],
        ),
        Act::InitiatorRemove => (
            with(pick("Number of the host", "1"), vec![See("2 sessions end"), Word("yes"), See("is forgotten.")]),
            vec!["forget iqn.2026-01.com.example:host"],
        ),
        Act::Interface => (
            with(pick("Number of the interface", "1"), addresses()),
            vec![
                "{\"name\":\"eth0\",\"kind\":{\"kind\":\"ethernet\"},\"ipv4\":{\"kind\":\"static\",\"addresses\":[\"192.0.2.9/24\",\"192.0.2.10/24\"],\"gateway\":\"192.0.2.1\"}",
                "keep",
            ],
        ),
        Act::Vlan => (
            with(
                pick("Number of the interface", "1"),
                with(
                    vec![Bad("VLAN number", "5000", "no number from 1 to 4094"), Good("VLAN number", "12")],
                    addresses(),
                ),
            ),
            vec!["{\"name\":\"eth0.12\",\"kind\":{\"kind\":\"vlan\",\"parent\":\"eth0\",\"id\":12}", "keep"],
        ),
        Act::Bond => (
            with(
                vec![
                    Bad("Name of the bond", "Bond 0", "no name of an interface"),
                    Good("Name of the bond", ""),
                    Bad("Cards of the bond", "eth0 eth9", "no interface"),
                    Good("Cards of the bond", "eth1 eth2"),
                    Bad("How they work together", "fast", "none of: active-backup, lacp"),
                    Good("How they work together", "lacp"),
                ],
                addresses(),
            ),
            vec![
                "{\"name\":\"bond0\",\"kind\":{\"kind\":\"bond\",\"members\":[\"eth1\",\"eth2\"],\"mode\":\"lacp\"}",
                "keep",
            ],
        ),
        Act::InterfaceForget => (
            with(pick("Number of the interface", "3"), vec![Word("yes"), See("In 1"), Key(b"keep\r"), See("is kept.")]),
            vec!["network {\"interfaces\":[{\"name\":\"eth0\",", "keep"],
        ),
        Act::NameServers => (
            vec![
                Bad("Name servers", "dns.example", "no address"),
                Good("Name servers", "192.0.2.1, 2001:db8::1"),
                Word("yes"),
                See("In 1"),
                // Left without a word: the earlier settings come back by themselves.
                Key(b".\r"),
            ],
            vec!["\"nameservers\":[\"192.0.2.1\",\"2001:db8::1\"]"],
        ),
        // The change of before still waits.
        Act::NetworkKeep => (vec![See("In 1"), Key(b"keep\r"), See("The network is kept.")], vec!["keep"]),
        Act::TimeServers => (
            vec![
                Bad("Time servers", "-bad-", "no name or address"),
                Good("Time servers", "ntp.example 192.0.2.1"),
                Word("yes"),
                See("The servers are asked"),
            ],
            vec!["time ntp.example,192.0.2.1 None"],
        ),
        Act::TimeByHand => (
            vec![
                Bad("Time now, UTC", "2026-02-30 10:00", "no time"),
                Good("Time now, UTC", "2026-11-22 14:00"),
                Word("yes"),
                See("set to 2026-11-22 14:00:00 UTC"),
            ],
            vec!["time  Some(1795356000000)"],
        ),
        Act::Alerts => (vec![See("Choose the line to keep."), Key(b"q\r")], vec![]),
        Act::AlertAck => (
            with(pick("Number of the alert", ""), vec![See("stays on the list"), Word("yes"), See("Acknowledged.")]),
            vec!["ack 12"],
        ),
        Act::Events => (vec![See("for the time 50"), Key(b"p\r"), See("for the time 30"), Key(b"q\r")], vec![]),
        Act::Jobs => (vec![See("mirror copy of group pg: at work"), Key(b"\r")], vec![]),
        Act::WebhookAdd => (
            vec![
                Bad("Webhook", "ftp://x", "no address of a webhook"),
                Good("Webhook", "https://hooks.example/b"),
                Word("yes"),
                See("Done. Try it"),
            ],
            vec!["{\"url\":\"https://hooks.example/b\"}"],
        ),
        Act::WebhookRemove => (
            with(pick("Number of the webhook", "1"), vec![Word("yes"), See("Removed.")]),
            vec!["notify {\"webhooks\":["],
        ),
        Act::MailSet => (
            vec![
                Bad("Mail server", "a b", "no name or address"),
                Good("Mail server", ""),
                Bad("Protection", "ssl", "none of: tls"),
                Good("Protection", "starttls"),
                Bad("Port", "70000", "no number from 1"),
                Good("Port", "2525"),
                Bad("Login name", LONG, "longer than 255"),
                Good("Login name", "other"),
                Bad("Login password", "", "An answer is needed."),
                Good("Login password", "hidden-word"),
                Bad("Sender", "box", "no mail address"),
                Good("Sender", ""),
                Bad("Receivers", "a@b.example c", "no mail address"),
                Good("Receivers", "a@b.example c@d.example"),
                Word("yes"),
                See("Done. Try it"),
            ],
            vec![
                "\"server\":\"mail.example\",\"port\":2525,\"security\":\"starttls\",\"user\":\"other\",\"password\":\"hidden-word\"",
            ],
        ),
        Act::MailOff => (vec![Word("yes"), See("No mail is sent any more.")], vec!["notify {\"webhooks\""]),
        Act::MessageTest => {
            (vec![Word("yes"), See("Taken"), See("FAILED"), See("it refused"), Key(b"q\r")], vec!["notify test"])
        }
        Act::LogDaemon => (vec![See("Daemon line 60 ?[31m"), Key(b"p\r"), See("previous"), Key(b"q\r")], vec![]),
        Act::LogSystem => (vec![See("System line 60"), Key(b"\x1b")], vec![]),
        Act::LogKernel => (vec![See("Kernel line 60"), Key(b"q\r")], vec![]),
        Act::SupportHow => (vec![See("https://192.0.2.7/support"), Key(b"q\r")], vec![]),
        Act::SupportWrite => (vec![Word("yes"), See("The bundle is written.")], vec!["support"]),
        Act::Password => (
            vec![
                Bad("New password", "short", "too short"),
                Good("New password", "correct horse"),
                Bad("New password again", "correct house", "another one"),
                Good("New password again", "correct horse"),
                See("Sessions of the web page end."),
                Word("yes"),
                See("The password is set."),
            ],
            vec!["password correct horse"],
        ),
        Act::SessionsEnd => (vec![Word("yes"), See("All sessions are ended.")], vec!["end sessions"]),
        Act::Name => (
            vec![
                Bad("Name of the box", "Lyon 2", "no name"),
                Good("Name of the box", "lyon2"),
                Word("yes"),
                See("The box is called lyon2."),
            ],
            vec!["name lyon2"],
        ),
        Act::Reboot => (
            vec![
                Bad("To go on, type RESTART lyon", "yes", "Nothing was done"),
                Word("RESTART lyon"),
                See("It begins now."),
            ],
            vec!["power Reboot"],
        ),
        Act::PowerOff => (vec![Word("POWEROFF lyon"), See("It begins now.")], vec!["power PowerOff"]),
        Act::ResetSettings => {
            (vec![See("reset the box: settings"), Word("RESET lyon"), See("Done.")], vec!["reset the box: settings"])
        }
        Act::ResetForget => (vec![See("50 GiB"), Word("FORGET lyon"), See("Done.")], vec!["reset the box: forget"]),
        Act::ResetWipe => (
            vec![
                See("What a peer ?[2Jsaid."),
                Bad("To go on, type WIPE lyon", "wipe lyon", "Nothing was done"),
                Word("WIPE lyon"),
                See("Done."),
            ],
            vec!["reset the box: wipe"],
        ),
        Act::Plain => (vec![], vec![]),
        Act::Help => (vec![See("Type the number of a choice"), Key(b"q\r")], vec![]),
        Act::Quit => (vec![See("This console stays.")], vec![]),
    }
}

const LONG: &str = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
0123456789012345678901234567890123456789012345678901234567890123456789";

struct Walk<'a> {
    terminal: Terminal,
    served: &'a Served<Double>,
    answered_wrongly: BTreeSet<&'static str>,
    visited: usize,
}

impl Walk<'_> {
    fn menu(&mut self, menu: &'static Menu) {
        for item in menu.items {
            self.terminal.at_menu(menu);
            self.visited += 1;
            self.terminal.line(item.key);
            match item.go {
                Go::Menu(below) => {
                    self.menu(below);
                    self.terminal.at_menu(below);
                    self.terminal.line("0");
                }
                Go::Do(Act::Plain) => {
                    // There and back: the console is the same on both kinds of terminal.
                    let (there, back) = ("Plain: nothing moves", "Full screen.");
                    let (there, back) = if self.terminal.plain { (back, there) } else { (there, back) };
                    self.terminal.see(there);
                    self.terminal.at_menu(&HOME);
                    self.terminal.line("t");
                    self.terminal.see(back);
                }
                Go::Do(act) => {
                    self.act(act);
                }
            }
        }
    }

    fn act(&mut self, act: Act) {
        self.served.service.taken();
        let (steps, calls) = script(act);
        for step in steps {
            match step {
                Good(label, text) => {
                    self.terminal.prompt_is(label);
                    self.terminal.line(text);
                }
                Bad(label, text, says) => {
                    self.terminal.prompt_is(label);
                    self.terminal.line(text);
                    self.terminal.see(says);
                    let word = label.starts_with("To go on, type ");
                    self.answered_wrongly.insert(if word { "To go on, type" } else { label });
                }
                Word(word) => {
                    self.terminal.prompt_is(&format!("To go on, type {word}"));
                    self.terminal.line(word);
                }
                See(text) => self.terminal.see(text),
                Key(keys) => self.terminal.key(keys),
            }
        }
        // What the console asks for comes after what it shows, where it has nothing more to show.
        let mut asked = self.served.service.taken();
        let until = Instant::now() + WAIT;
        while asked.len() < calls.len() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
            asked.extend(self.served.service.taken());
        }
        assert_eq!(asked.len(), calls.len(), "{act:?} asked {asked:?}");
        for (asked, wanted) in asked.iter().zip(&calls) {
            assert!(asked.contains(wanted), "{act:?}: {asked} has no {wanted}");
        }
    }
}

fn count(menu: &'static Menu) -> usize {
    let below = menu.items.iter().map(|i| match i.go {
        Go::Menu(below) => count(below),
        Go::Do(_) => 0,
    });
    menu.items.len() + below.sum::<usize>()
}

fn walk(plain: bool) -> Vec<u8> {
    let served = serve(Double::new());
    let terminal = Terminal::start(&served, plain);
    let mut walk = Walk { terminal, served: &served, answered_wrongly: BTreeSet::new(), visited: 0 };
    walk.menu(&HOME);
    assert_eq!(walk.visited, count(&HOME));
    let missing: Vec<&str> =
        FIELDS.iter().map(|f: &&Field| f.label).filter(|l| !walk.answered_wrongly.contains(l)).collect();
    assert_eq!(missing, [""; 0], "questions that no script answers wrongly");
    let seen = walk.terminal.seen.lock().unwrap();
    seen.all.clone()
}

fn no_secret_was_shown(all: &[u8]) {
    let text = String::from_utf8_lossy(all);
    for secret in ["secret-of-host", "secret-of-box", "hidden-word", "correct horse"] {
        assert!(!text.contains(secret), "{secret} was shown");
    }
}

#[test]
fn every_choice_is_visited_and_every_question_answered_wrongly_first() {
    let all = walk(false);
    no_secret_was_shown(&all);
}

#[test]
fn a_plain_terminal_gets_the_same_without_escape_codes() {
    let all = walk(true);
    no_secret_was_shown(&all);
    // The one time it was a full screen in between, the choice of that was tried.
    let text = String::from_utf8_lossy(&all);
    let (before, after) = text.split_once("Full screen.").unwrap();
    let (_, after) = after.split_once("Plain: nothing moves").unwrap();
    let before = before.rsplit_once("\u{1b}[0m").map_or(before, |(plain, _)| plain);
    for part in [before, after] {
        assert!(!part.contains('\u{1b}'));
        assert!(part.bytes().all(|b| matches!(b, 0x20..=0x7e | b'\r' | b'\n' | 0x08)), "control characters");
        let longest = part.split(['\r', '\n']).map(str::len).max();
        assert!(longest <= Some(80), "{longest:?}");
    }
}

#[test]
fn a_box_without_a_pool_shows_the_way_to_one() {
    let double = Double::new();
    double.world().system.pool = PoolPlace::None { reason: "no blank disk was found".into() };
    let served = serve(Waiting::for_disk(double));
    let mut t = Terminal::start(&served, false);
    t.see("NONE: no blank disk was found");
    t.line("3");
    t.see("the box has no disk for its pool yet");
    t.at_menu(&VOLUMES);
    t.line("0");
    t.at_menu(&HOME);
    t.line("5");
    t.see("FOREIGN: ext4");
    t.at_menu(&DISKS);
    t.line("1");
    t.prompt_is("Number of the disk");
    t.line("2");
    t.prompt_is("To go on, type yes");
    t.line("yes");
    t.see("is being made on /dev/sdc");
    assert_eq!(served.service.machine().taken(), ["take /dev/sdc None"]);
}

#[test]
fn a_cable_plugged_in_shows_something_within_five_seconds_and_nobody_has_to_know_what_was_before() {
    let served = serve(Double::new());
    let mut t = Terminal::start(&served, false);
    t.see("lyon: Status");
    t.see("192.0.2.7/24");
    // The terminal at the end of the new cable is empty. The quickest of three counts: a machine may stall.
    let mut took = Vec::new();
    while took.iter().all(|t| *t >= Duration::from_secs(5)) {
        assert!(took.len() < 3, "{took:?}");
        t.seen.lock().unwrap().screen = vt100::Parser::new(24, 80, 0);
        let begin = Instant::now();
        t.see("lyon: Status");
        t.see("15 Reset");
        took.push(begin.elapsed());
    }
    // A name that changed meanwhile is shown without a key, too.
    served.service.world().system.name = "turin2".parse().unwrap();
    t.see("turin2: Status");
    // Ctrl-L draws all of it at once.
    took.clear();
    while took.iter().all(|t| *t >= Duration::from_secs(2)) {
        assert!(took.len() < 3, "{took:?}");
        t.seen.lock().unwrap().screen = vt100::Parser::new(24, 80, 0);
        let begin = Instant::now();
        t.key(b"\x0c");
        t.see("turin2: Status");
        took.push(begin.elapsed());
    }
}

/// A daemon that ended at every start once left nothing but taking the disk out: the consoles were all its clients.
#[test]
fn a_box_without_its_daemon_is_reset_from_here() {
    let dir = tempfile::tempdir().unwrap();
    let system = dir.path().join("system.sock");
    let listener = std::os::unix::net::UnixListener::bind(&system).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let to = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(&stream), &mut line).unwrap();
            let reply = match serde_json::from_str::<SystemCall>(&line).unwrap() {
                SystemCall::Show => SystemReply::Show(Box::new(serial_double::system())),
                call => {
                    to.lock().unwrap().push(call);
                    SystemReply::Done(Done {})
                }
            };
            writeln!(stream, "{}", serde_json::to_string(&reply).unwrap()).unwrap();
        }
    });
    let mut terminal = Terminal::at(dir.path().join("no.sock"), Some(system), false);
    terminal.see("cannot reach the box");
    terminal.line("15");
    terminal.at_menu(&RESET);
    terminal.line("2");
    terminal.see("The daemon does not answer");
    terminal.see("volumes are");
    terminal.prompt_is("To go on, type FORGET lyon");
    terminal.line("forget");
    terminal.see("Nothing was done");
    terminal.line("FORGET lyon");
    terminal.see("Done.");
    let wanted = [SystemCall::Reset(Reset { level: ResetLevel::Forget })];
    assert_eq!(asked.lock().unwrap()[..], wanted, "and nothing else, before the word was typed or after");
}

#[test]
fn the_code_of_the_first_password_is_shown_until_it_is_used() {
    let double = Double::new();
    double.world().code = Some("K7M-3PQ-9TX".into());
    let served = serve(double);
    let mut t = Terminal::start(&served, false);
    t.see("in a browser it is set with the code K7M-3PQ-9TX");
    t.line("13");
    t.at_menu(&ADMIN);
    t.see("NOT SET: in a browser it is set with the code K7M-3PQ-9TX");
    served.service.world().code = None;
    t.line("0");
    t.at_menu(&HOME);
    t.line("13");
    t.at_menu(&ADMIN);
    t.see("Password   set");
}

#[test]
fn a_daemon_that_is_away_is_said_and_found_again() {
    let served = serve(Double::new());
    let hidden = served.socket.with_extension("away");
    std::fs::rename(&served.socket, &hidden).unwrap();
    let mut t = Terminal::start(&served, false);
    t.see("cannot reach the box");
    t.line("7");
    t.at_menu(&NETWORK);
    t.see("cannot reach the box");
    t.line("0");
    std::fs::rename(&hidden, &served.socket).unwrap();
    t.see("lyon: Status");
}

/// A box whose source had gone said that its mirror lagged by 0 s, that its volumes were ready, and that no group of it was
/// mirrored: nothing that helped, and some of it untrue.
#[test]
fn a_box_whose_source_is_gone_says_what_it_holds_and_sends_nobody_astray() {
    let double = Double::new();
    {
        let mut world = double.world();
        let mut volume = world.status.groups[1].volumes[0].clone();
        volume.state = VolumeState::Image;
        world.status.groups.retain(|g| g.role == Role::Mirror);
        let group = &mut world.status.groups[0];
        (group.state, group.volumes) = (GroupState::Disconnected, vec![volume]);
        group.image = Some(ImageStatus {
            complete: true,
            moment_unix_ms: Some(1_790_000_000_000),
            source: ImageSource::Silent,
            silent_since_unix_ms: Some(1_790_000_000_000),
            text: "turin has been silent since noon. THIS VERSION CANNOT SERVE IT.".into(),
            what_to_do: "Bring turin back. Do not delete, reset or re-pair this box.".into(),
        });
    }
    let served = serve(double);
    let mut t = Terminal::start(&served, false);
    let says = |t: &Terminal, words: &str| {
        t.until(words, |t| t.text().split_whitespace().collect::<Vec<_>>().join(" ").contains(words));
    };
    t.see("SOURCE SILENT");
    t.line("4");
    t.at_menu(&MIRRORS);
    says(&t, "turin has been silent since noon. THIS VERSION CANNOT SERVE IT. Bring turin back.");
    says(&t, "Do not delete, reset or re-pair this box.");
    for key in ["1", "2", "3", "4"] {
        t.line(key);
        says(&t, "This box keeps mirrors of turin, and has no such group of its own.");
        says(&t, "do this on turin");
        t.at_menu(&MIRRORS);
    }
    t.line("0");
    t.at_menu(&HOME);
    t.line("3");
    t.at_menu(&VOLUMES);
    t.see(" image");
    assert!(!t.text().contains("ready"), "{}", t.text());
    assert!(served.service.taken().is_empty());
}
