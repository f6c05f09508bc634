//! The config partition: what the box is told and has to know before anything else.
//!
//! Two copies, each with its own checksum, in the format `docs/formats.md` draws. A change writes the older copy, flushes,
//! then the other one, so that at every moment one of them is whole. Roles and data are not kept here: with both copies
//! damaged the box starts with the defaults and serves what its journal says.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crc_fast::{CrcAlgorithm, checksum};
use reprise_api::{ConfigState, NetworkSettings, ResetLevel};
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"reprcfg\0";
/// The version written. A reader takes this one and those before it.
const VERSION: u32 = 1;
const HEADER_LEN: usize = 32;
/// Longest body: 32 interfaces with 8 addresses each take some 20 KiB.
const BODY_LEN_MAX: usize = 256 << 10;
/// Where the copies begin, in bytes. Far apart: what tears or rots one does not reach the other.
pub(crate) const COPY_OFFSETS: [u64; 2] = [0, 8 << 20];
/// A copy is written in whole blocks of this size.
const BLOCK: usize = 4096;

/// What the config partition holds. Fields that an older release does not know are dropped by it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Saved {
    /// Name of the box; none: the one made of its hardware address.
    pub(crate) name: Option<String>,
    /// The network.
    pub(crate) network: NetworkSettings,
    /// NTP servers; none: the firmware's own choice; an empty list: the clock is set by hand.
    pub(crate) time_servers: Option<Vec<String>>,
    /// The disk of the pool.
    pub(crate) pool: Option<PoolRecord>,
    /// True when a disk is to be chosen by a person only: the settings that knew one were lost.
    pub(crate) pool_by_hand: bool,
    /// True once the disk's GUIDs are the box's own, and no longer those of the image.
    pub(crate) guids_own: bool,
    /// A reset that is wanted and not yet finished.
    pub(crate) reset: Option<ResetIntent>,
}

/// The disk that carries the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PoolRecord {
    /// Its serial number, to tell a person which disk is missing.
    pub(crate) serial: String,
    /// GUID of the partition of the cache, by which the box knows the disk again.
    pub(crate) cache_guid: String,
    /// False while it is being made.
    pub(crate) made: bool,
}

/// A reset that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResetIntent {
    /// How much.
    pub(crate) level: ResetLevel,
    /// Starts that tried it.
    #[serde(default)]
    pub(crate) tries: u32,
    /// Bytes of the pool wiped so far.
    #[serde(default)]
    pub(crate) wiped: u64,
}

/// What one copy turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Copy {
    /// Only zeros: never written.
    Empty,
    /// Whole.
    Good {
        /// How often the settings had been written.
        generation: u64,
        /// What it says.
        saved: Box<Saved>,
    },
    /// Something else.
    Bad(String),
}

/// The bytes of a copy, in whole blocks.
///
/// # Errors
/// The settings are larger than a copy may be.
pub(crate) fn encode(generation: u64, saved: &Saved) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(saved)?;
    if body.len() > BODY_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the settings are too long for the config partition"));
    }
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len() + BLOCK);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&body);
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &bytes) as u32;
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    Ok(bytes)
}

/// Reads a copy; `bytes` begin where it begins and may be longer than it.
pub(crate) fn decode(bytes: &[u8]) -> Copy {
    let bad = |what: &str| Copy::Bad(what.to_owned());
    let Some((header, rest)) = bytes.split_at_checked(HEADER_LEN) else { return bad("it is cut off") };
    if bytes.iter().take(BLOCK).all(|b| *b == 0) {
        return Copy::Empty;
    }
    if header[..8] != MAGIC {
        return bad("it does not begin as settings do");
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (version, len) = (word(8), word(12) as usize);
    if version != VERSION {
        return Copy::Bad(format!("it has version {version}, this firmware reads {VERSION}"));
    }
    let Some(body) = rest.get(..len).filter(|_| len <= BODY_LEN_MAX) else { return bad("its length is wrong") };
    let mut checked = header.to_vec();
    checked[24..28].fill(0);
    checked.extend_from_slice(body);
    if checksum(CrcAlgorithm::Crc32Iscsi, &checked) as u32 != word(24) {
        return bad("its checksum is wrong");
    }
    match serde_json::from_slice(body) {
        Ok(saved) => Copy::Good { generation: u64::from(word(16)) | u64::from(word(20)) << 32, saved: Box::new(saved) },
        Err(error) => Copy::Bad(error.to_string()),
    }
}

/// What two copies say together: the settings, how often they had been written, and what became of them.
pub(crate) fn judge(copies: &[Copy; 2]) -> (Saved, u64, ConfigState) {
    let damaged = copies.iter().any(|c| matches!(c, Copy::Bad(_)));
    let good = |copy: &Copy| match copy {
        Copy::Good { generation, saved } => Some((*generation, (**saved).clone())),
        _ => None,
    };
    match (copies.iter().filter_map(good).max_by_key(|(generation, _)| *generation), damaged) {
        (Some((generation, saved)), false) => (saved, generation, ConfigState::Good),
        (Some((generation, saved)), true) => (saved, generation, ConfigState::Repaired),
        (None, false) => (Saved::default(), 0, ConfigState::Fresh),
        (None, true) => {
            let why: Vec<&str> =
                copies.iter().map(|c| if let Copy::Bad(why) = c { why.as_str() } else { "it is empty" }).collect();
            let reason = format!("first copy: {}; second copy: {}", why[0], why[1]);
            // Nobody knows which disks were the box's, so none is taken unasked.
            let saved = Saved { pool_by_hand: true, guids_own: true, ..Saved::default() };
            (saved, 0, ConfigState::Damaged { reason })
        }
    }
}

/// The copy that may be written over first: the one that is not the newest whole one.
fn first_to_write(copies: &[Copy; 2]) -> usize {
    match copies {
        [Copy::Good { generation: a, .. }, Copy::Good { generation: b, .. }] if a >= b => 1,
        [Copy::Good { .. }, Copy::Good { .. }] => 0,
        [Copy::Good { .. }, _] => 1,
        _ => 0,
    }
}

/// The config partition, open.
pub(crate) struct Store {
    file: File,
    generation: u64,
    saved: Saved,
    /// The copy that is written first: never the only one that holds the settings.
    first: usize,
}

impl Store {
    /// Reads the partition, and writes a damaged or older copy again.
    ///
    /// # Errors
    /// It cannot be read. A copy that cannot be read counts as damaged as long as the other one can.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, ConfigState)> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut failures = Vec::new();
        let copies = COPY_OFFSETS.map(|offset| match read_up_to(&file, offset, HEADER_LEN + BODY_LEN_MAX) {
            Ok(bytes) => decode(&bytes),
            Err(error) => {
                let why = format!("it cannot be read: {error}");
                failures.push(error);
                Copy::Bad(why)
            }
        });
        if failures.len() == COPY_OFFSETS.len() {
            return Err(failures.remove(0));
        }
        let (saved, generation, state) = judge(&copies);
        let first = first_to_write(&copies);
        let mut store = Self { file, generation, saved: saved.clone(), first };
        let equal = copies.iter().all(|c| matches!(c, Copy::Good { generation: g, .. } if *g == generation));
        if !equal && matches!(state, ConfigState::Good | ConfigState::Repaired) {
            store.write(saved)?;
        }
        Ok((store, state))
    }

    /// What is saved.
    pub(crate) fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Changes what is saved. Durable when this returns; after a failure either the old or the new holds.
    ///
    /// # Errors
    /// The disk refused, or the settings are too long.
    pub(crate) fn change(&mut self, edit: impl FnOnce(&mut Saved)) -> io::Result<()> {
        let mut saved = self.saved.clone();
        edit(&mut saved);
        if saved == self.saved && self.generation != 0 {
            return Ok(());
        }
        self.write(saved)
    }

    fn write(&mut self, saved: Saved) -> io::Result<()> {
        let generation = self.generation.saturating_add(1);
        let bytes = encode(generation, &saved)?;
        // Counted also where the write fails, since a copy may hold it then.
        self.generation = generation;
        for copy in [self.first, 1 - self.first] {
            self.first = copy;
            self.file.write_all_at(&bytes, COPY_OFFSETS[copy])?;
            self.file.sync_data()?;
        }
        self.saved = saved;
        Ok(())
    }
}

fn read_up_to(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut have = 0;
    while have < len {
        match file.read_at(&mut bytes[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(name: &str) -> Saved {
        Saved { name: Some(name.to_owned()), ..Saved::default() }
    }

    fn partition(bytes: &[(u64, Vec<u8>)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        for (offset, bytes) in bytes {
            file.as_file().write_all_at(bytes, *offset).unwrap();
        }
        file
    }

    fn opened(file: &tempfile::NamedTempFile) -> (Option<String>, ConfigState) {
        let (store, state) = Store::open(file.path()).unwrap();
        (store.saved().name.clone(), state)
    }

    #[test]
    fn a_zeroed_partition_is_a_fresh_box_and_keeps_what_it_is_told() {
        let file = partition(&[]);
        let (mut store, state) = Store::open(file.path()).unwrap();
        assert_eq!(state, ConfigState::Fresh);
        store.change(|s| s.name = Some("a".into())).unwrap();
        store.change(|s| s.pool = Some(PoolRecord { serial: "S1".into(), ..PoolRecord::default() })).unwrap();
        assert_eq!(opened(&file), (Some("a".into()), ConfigState::Good));
    }

    #[test]
    fn a_damaged_copy_is_written_again_and_two_are_told() {
        for (broken, offset) in COPY_OFFSETS.iter().enumerate() {
            let file = partition(&[]);
            Store::open(file.path()).unwrap().0.change(|s| s.name = Some("a".into())).unwrap();
            file.as_file().write_all_at(b"x", offset + 40).unwrap();
            assert_eq!(opened(&file), (Some("a".into()), ConfigState::Repaired), "copy {broken}");
            assert_eq!(opened(&file), (Some("a".into()), ConfigState::Good), "copy {broken}");
            for offset in COPY_OFFSETS {
                file.as_file().write_all_at(b"x", offset + 40).unwrap();
            }
            let (store, state) = Store::open(file.path()).unwrap();
            assert!(matches!(&state, ConfigState::Damaged { reason } if reason.contains("checksum")), "{state:?}");
            assert!(store.saved().pool_by_hand, "no disk is taken unasked");
        }
    }

    #[test]
    fn the_newer_copy_wins_wherever_it_is() {
        for newer in 0..2 {
            let copies = [0, 1].map(|n| (COPY_OFFSETS[n], if n == newer { named("new") } else { named("old") }));
            let bytes: Vec<_> = (copies.iter().enumerate())
                .map(|(n, (offset, saved))| (*offset, encode(if n == newer { 8 } else { 7 }, saved).unwrap()))
                .collect();
            let file = partition(&bytes);
            assert_eq!(opened(&file), (Some("new".into()), ConfigState::Good));
        }
    }

    /// The whole copy must not be the first one that a repair writes over: a power cut then would leave none.
    #[test]
    fn a_repair_begins_with_the_damaged_copy() {
        for (broken, offset) in COPY_OFFSETS.iter().enumerate() {
            let file = partition(&[]);
            Store::open(file.path()).unwrap().0.change(|s| s.name = Some("a".into())).unwrap();
            file.as_file().write_all_at(b"x", offset + 40).unwrap();
            let bytes = COPY_OFFSETS.map(|offset| read_up_to(file.as_file(), offset, BLOCK).unwrap());
            let copies = bytes.map(|b| decode(&b));
            assert_eq!(first_to_write(&copies), broken);
        }
    }

    /// Settings as version 1 wrote them are read for ever. `REPRISE_GOLDEN=create` writes the file if it is not there.
    #[test]
    fn golden_settings_are_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config-1.bin");
        let interface = r#"{"name":"bond0","kind":{"kind":"bond","members":["eth0","eth1"],"mode":"lacp"},"mtu":9000,
            "ipv4":{"kind":"static","addresses":["192.0.2.7/24"],"gateway":"192.0.2.1"}}"#;
        let saved = Saved {
            name: Some("box-a".into()),
            network: serde_json::from_str(&format!("{{\"interfaces\":[{interface}],\"nameservers\":[\"192.0.2.1\"]}}"))
                .unwrap(),
            time_servers: Some(vec!["pool.ntp.org".into()]),
            pool: Some(PoolRecord {
                serial: "WD-42".into(),
                cache_guid: "0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
                made: true,
            }),
            pool_by_hand: true,
            guids_own: true,
            reset: Some(ResetIntent { level: ResetLevel::Wipe, tries: 1, wiped: 1 << 40 }),
        };
        if !path.exists() && std::env::var("REPRISE_GOLDEN").as_deref() == Ok("create") {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, encode(0x0102_0304_0506_0708, &saved).unwrap()).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(decode(&bytes), Copy::Good { generation: 0x0102_0304_0506_0708, saved: Box::new(saved) });
    }

    #[test]
    fn what_a_later_release_writes_is_not_taken_for_settings() {
        let mut bytes = encode(1, &named("a")).unwrap();
        bytes[8] = 9;
        assert!(matches!(decode(&bytes), Copy::Bad(why) if why.contains("version 9")));
    }

    #[test]
    fn settings_that_do_not_fit_are_refused() {
        let file = partition(&[]);
        let (mut store, _) = Store::open(file.path()).unwrap();
        store.change(|s| s.name = Some("a".into())).unwrap();
        assert!(store.change(|s| s.name = Some("x".repeat(BODY_LEN_MAX))).is_err());
        assert_eq!(opened(&file), (Some("a".into()), ConfigState::Good));
    }

    proptest! {
        /// A power cut while the copies are written, at any byte, with each block of the write under way old, new or torn.
        #[test]
        fn a_torn_write_leaves_the_old_or_the_new(
            old in "[a-z]{1,20}", new in "[a-z]{1,9000}", second in any::<bool>(), cut in 0.0f64..=1.0,
            garbage in proptest::option::of((0usize..600, any::<u8>())), generation in 1u64..u64::MAX - 1,
        ) {
            let before = encode(generation, &named(&old)).unwrap();
            let after = encode(generation + 1, &named(&new)).unwrap();
            let mut torn = before.clone();
            torn.resize(before.len().max(after.len()), 0);
            let kept = (after.len() as f64 * cut) as usize;
            torn[..kept].copy_from_slice(&after[..kept]);
            if let Some((len, value)) = garbage {
                let end = (kept + len).min(torn.len());
                torn[kept..end].fill(value);
            }
            let copies = if second { [after.clone(), torn] } else { [torn, before.clone()] };
            let (saved, _, state) = judge(&copies.map(|c| decode(&c)));
            let ok = saved == named(&new) || (!second && saved == named(&old));
            prop_assert!(ok, "{saved:?}");
            prop_assert!(matches!(state, ConfigState::Good | ConfigState::Repaired));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000), keep_magic in any::<bool>()) {
            let mut bytes = bytes;
            if keep_magic && bytes.len() >= 12 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            }
            decode(&bytes);
        }

        #[test]
        fn what_is_written_is_read(name in proptest::option::of(".{0,40}"), generation in any::<u64>(), wiped in any::<u64>()) {
            let reset = Some(ResetIntent { level: ResetLevel::Wipe, tries: 2, wiped });
            let saved = Saved { name, reset, time_servers: Some(vec![]), ..Saved::default() };
            let read = decode(&encode(generation, &saved).unwrap());
            prop_assert_eq!(read, Copy::Good { generation, saved: Box::new(saved) });
        }
    }
}
