//! The console as a state machine: whatever is typed or comes as noise, it does not panic, stays within 80 columns and
//! 24 lines, and changes nothing that nobody confirmed.
#![allow(clippy::unwrap_used)]

mod serial_double;

use proptest::prelude::*;
use reprise_api::{Client, Target};
use reprise_console::serial::call::{Call, Weight};
use reprise_console::serial::{IDLE_MS_MAX, Input, Mode, SILENCE_MS, Screen};
use serial_double::{Double, Served, serve};

/// A console and the box it asks.
struct Console<'a> {
    screen: Screen,
    now_ms: u64,
    client: Client,
    runtime: tokio::runtime::Runtime,
    changed: Vec<Call>,
    output: Vec<u8>,
    plain: bool,
    served: &'a Served<Double>,
}

impl<'a> Console<'a> {
    fn new(served: &'a Served<Double>, plain: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = Client::new(Target::Socket(served.socket.clone()));
        let screen = Screen::new(0, Mode { plain, may_quit: false });
        let mut console =
            Self { screen, now_ms: 0, client, runtime, changed: Vec::new(), output: Vec::new(), plain, served };
        console.settle();
        console
    }

    fn put(&mut self, input: Input<'_>) {
        self.screen.handle(self.now_ms, input);
        self.settle();
    }

    fn type_line(&mut self, text: &str) {
        self.put(Input::Bytes(format!("{text}\r").as_bytes()));
    }

    /// Answers whatever is asked, and looks at what is on the screen.
    fn settle(&mut self) {
        loop {
            let requests = self.screen.take_requests();
            let out = self.screen.take_output();
            assert!(!self.plain || !out.contains(&0x1b), "an escape code on a plain terminal");
            self.output.extend(out);
            self.output.drain(..self.output.len().saturating_sub(100_000));
            let lines = self.screen.lines();
            assert!(lines.len() <= 24, "{} lines: {lines:#?}", lines.len());
            for line in &lines {
                assert!(line.len() <= 80 && line.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{line:?}");
            }
            assert!(self.screen.cursor_column() < 80);
            if requests.is_empty() && !self.screen.wants_written() {
                return;
            }
            for (id, call) in requests {
                if call.weight() == Weight::Change {
                    self.changed.push(call.clone());
                }
                let result = self.runtime.block_on(call.carry_out(&self.client)).map(Box::new);
                self.screen.handle(self.now_ms, Input::Answer(id, result));
            }
            if self.screen.wants_written() {
                self.screen.handle(self.now_ms, Input::Written);
            }
        }
    }

    fn text(&self) -> String {
        self.screen.lines().join("\n")
    }
}

#[derive(Debug, Clone)]
enum Noise {
    Bytes(Vec<u8>),
    Line(String),
    Wait(u64),
    Cable,
}

/// What leads far into the dialogs, but none of the words that confirm.
fn noise() -> impl Strategy<Value = Noise> {
    let words = prop::sample::select(vec![
        "192.0.2.9",
        "192.0.2.8/24",
        "2001:db8::1/64",
        "auto",
        "none",
        "off",
        "10G",
        "60G",
        "vol",
        "pg",
        "thin",
        "4kn",
        "iqn.1993-08.org.debian:01:abc",
        "host",
        "secret-of-host",
        "ntp.example",
        "2026-11-22 14:00",
        "tls",
        "a@b.example",
        "https://hooks.example/b",
        "correct horse",
        "lacp",
        "eth0",
        "yes, do it",
        "y",
        "YE",
        "KEEP",
        "RESET",
        // Not of nine letters: that would be a code to pair with.
        "WIPE milano",
        "n",
        "p",
        "q",
        "t",
        "?",
        ".",
        "",
    ]);
    prop_oneof![
        6 => (1u32..17).prop_map(|n| Noise::Line(n.to_string())),
        4 => words.prop_map(|w| Noise::Line(w.to_owned())),
        2 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Noise::Bytes),
        1 => prop::collection::vec(prop::sample::select(vec![0x1bu8, b'[', b'O', b'A', 8, 0x7f, 0x15, 0x0c, 3, 4, b'1']), 0..12)
            .prop_map(Noise::Bytes),
        1 => (0u64..SILENCE_MS * 2).prop_map(Noise::Wait),
        1 => Just(Noise::Wait(IDLE_MS_MAX)),
        1 => Just(Noise::Cable),
    ]
}

#[test]
fn noise_changes_nothing_and_breaks_nothing() {
    let served = serve(Double::new());
    let config = ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(plain: bool, all in prop::collection::vec(noise(), 0..80))| {
        served.service.taken();
        let mut console = Console::new(&served, plain);
        for one in all {
            // The choice of a terminal is no part of this test.
            console.plain = false;
            match one {
                Noise::Bytes(bytes) => console.put(Input::Bytes(&bytes)),
                Noise::Line(line) => console.type_line(&line),
                Noise::Cable => console.put(Input::Cable),
                Noise::Wait(ms) => {
                    console.now_ms += ms;
                    console.put(Input::Tick);
                }
            }
        }
        prop_assert_eq!(&console.changed, &Vec::<Call>::new());
        let asked = console.served.service.taken();
        prop_assert!(asked.iter().all(|a| matches!(a.as_str(), "listen" | "cancel" | "support")), "{asked:?}");
    });
}

#[test]
fn a_flood_of_random_bytes_on_a_plain_terminal_gives_no_escape_code() {
    let served = serve(Double::new());
    let mut console = Console::new(&served, true);
    // A fixed stream of a linear congruential generator, without `t`, which chooses the other kind of screen.
    let mut state = 1u64;
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..100)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            })
            .filter(|b| !matches!(b, b't' | b'T'))
            .collect();
        console.now_ms += 150;
        console.put(Input::Bytes(&bytes));
        console.put(Input::Tick);
    }
    assert_eq!(console.changed, []);
}

#[test]
fn ten_minutes_without_a_key_bring_the_status_page_back_and_forget_what_was_typed() {
    let served = serve(Double::new());
    let mut console = Console::new(&served, false);
    console.type_line("13");
    console.type_line("1");
    console.type_line("correct horse");
    assert!(console.text().contains("New password again"), "{}", console.text());
    console.now_ms += IDLE_MS_MAX - 1;
    console.put(Input::Tick);
    assert!(console.text().contains("New password again"));
    console.now_ms += 1;
    console.put(Input::Tick);
    assert!(console.text().contains("lyon: Status"), "{}", console.text());
    console.type_line("yes");
    assert_eq!(console.changed, []);
}

#[test]
fn after_a_silence_enter_only_draws_the_screen_again() {
    let served = serve(Double::new());
    for plain in [false, true] {
        let mut console = Console::new(&served, plain);
        console.type_line("3");
        console.type_line("1");
        assert!(console.text().contains("Name of the volume [disk1]"), "{}", console.text());
        console.now_ms += SILENCE_MS;
        console.output.clear();
        console.type_line("");
        let out = String::from_utf8(console.output.clone()).unwrap();
        assert!(out.contains("lyon: New volume, mirrored"), "{out:?}");
        assert!(console.text().contains("Name of the volume [disk1]"), "an Enter took the default: {}", console.text());
        console.type_line("");
        assert!(console.text().contains("Size:"), "{}", console.text());
    }
}

#[test]
fn from_two_blank_boxes_to_a_mirrored_volume_it_takes_at_most_ten_inputs() {
    let served = serve(Double::new());
    let mut inputs = 0;
    let mut a = Console::new(&served, false);
    let mut type_line = |console: &mut Console<'_>, text: &str| {
        inputs += 1;
        console.type_line(text);
    };
    type_line(&mut a, "1");
    assert!(a.text().contains("4F7-K2M-9TX"));
    let mut b = Console::new(&served, false);
    for text in ["2", "192.0.2.7", "4F7-K2M-9TX"] {
        type_line(&mut b, text);
    }
    assert!(b.text().contains("Paired with turin"), "{}", b.text());
    // What box A waited for comes by itself.
    for _ in 0..4 {
        a.now_ms += 2000;
        a.put(Input::Tick);
    }
    assert!(a.text().contains("Paired with turin"), "{}", a.text());
    for text in ["", "3", "1", "new", "10G", "yes"] {
        type_line(&mut a, text);
    }
    assert!(a.text().contains("then mirrored to turin"), "{}", a.text());
    assert!(inputs <= 10, "{inputs}");
}

#[test]
fn the_status_page_shows_all_that_matters_at_one_glance() {
    let served = serve(Double::new());
    for plain in [false, true] {
        let console = Console::new(&served, plain);
        let text = console.text();
        for part in [
            "lyon: Status",
            "0.1.0, slot A, confirmed",
            "right by 192.0.2.1",
            "eth0 192.0.2.7/24",
            "https://192.0.2.7/",
            "0011 2233 4455 6677 8899 aabb ccdd eeff",
            "data 60 % of 100 GiB, cache 20 % of 100 GiB",
            "turin connected",
            "1 CRITICAL, 1 warning: Both boxes wrote",
            "mail               mirror DIVERGED         REFUSED     -          0 %",
            "pg                 source copying 38 %     up          2.4 s      20 %",
            "files              source alone",
            "15 Reset",
        ] {
            assert!(text.contains(part), "no {part:?}:\n{text}");
        }
        assert!(!text.contains("-- part"), "{text}");
    }
}
