//! Every decoder under libFuzzer. See `README.md`.
#![no_main]

// A group with its disks in memory, and what is done to it, are those of the engine's own tests.
mod disk;
#[path = "../../../crates/reprise-engine/tests/pair/harness.rs"]
#[allow(dead_code)]
mod harness;
mod recovery;
#[path = "../../../crates/reprise-engine/tests/pair/bytes.rs"]
#[allow(dead_code)]
mod script;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// A target: name, longest useful input, folder with seeds (from `tests/fuzz`), what is done with an input.
type Target = (&'static str, usize, &'static str, fn(&[u8]));

const GOLDEN: &str = "../../crates/reprise-format/tests/golden";
const GOLDEN_LINK: &str = "../../crates/reprise-format/tests/golden/link";

const TARGETS: &[Target] = &[
    ("batch", 1536, GOLDEN, disk::batch),
    ("footer", 8192, GOLDEN, disk::footer),
    ("segment", 512, GOLDEN, disk::segment),
    ("superblock", 1024, GOLDEN, disk::superblock),
    ("recovery", 64, "seeds/recovery", recovery::recovery),
    ("link", 512, GOLDEN_LINK, disk::link),
    ("group_peer", 600, "seeds/group", script::hostile_peer),
    ("group_superblock", 60, "seeds/group", script::hostile_superblock),
    ("iscsi_pdu", 256, "seeds/iscsi", reprise_iscsi::fuzz_pdu),
    ("iscsi_text", 512, "seeds/iscsi", reprise_iscsi::fuzz_text),
    ("iscsi_login", 512, "seeds/iscsi", reprise_iscsi::fuzz_login),
    ("iscsi_connection", 112, "seeds/iscsi", reprise_iscsi::fuzz_connection),
    ("iscsi_chap", 512, "seeds/iscsi", reprise_iscsi::fuzz_chap),
    ("iscsi_session", 512, "seeds/iscsi", reprise_iscsi::fuzz_session),
    ("scsi_cdb", 128, "seeds/scsi", reprise_scsi::fuzz_cdb),
    ("settings", 512, "seeds/settings", settings),
];

/// `box.toml`.
fn settings(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(settings) = reprise_api::Settings::parse(text) {
        let again = settings.to_toml().expect("settings that parse can be written");
        let again = reprise_api::Settings::parse(&again).expect("settings that were written parse");
        assert_eq!(again, settings);
    }
}

fn chosen() -> fn(&[u8]) {
    static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("REPRISE_FUZZ").unwrap_or_default();
        if name == "list" {
            TARGETS.iter().for_each(|(name, max_len, seeds, _)| println!("{name} {max_len} {seeds}"));
            std::process::exit(0);
        }
        match TARGETS.iter().find(|t| t.0 == name) {
            Some(target) => target.3,
            None => {
                eprintln!("REPRISE_FUZZ={name:?}: name a target; REPRISE_FUZZ=list lists them");
                std::process::exit(2);
            }
        }
    })
}

fuzz_target!(init: { chosen(); }, |input: &[u8]| chosen()(input));
