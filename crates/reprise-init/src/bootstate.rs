//! Which slot is started next: the boot loader's environment block, and the one sector of it that changes.
//!
//! The block is a file `grubenv` of 1024 bytes on the EFI system partition. No file system is ever mounted there for writing:
//! the file stands at a place that the image's builder has recorded on the command line (`reprise.state=SECTOR`), and a
//! change is one write of its first sector, past all caches. A disk writes a sector wholly or not at all, so there is nothing
//! in between to be found after a power cut. All that is said fits into that sector; the second holds nothing but padding.
//!
//! The boot loader takes the first slot in `ORDER` that may be started and has tries left, and counts the try before it goes
//! on. A slot that is known to work has its count cleared as soon as its root is checked, so that a few power cuts in a row do
//! not turn a healthy box away from it; a slot on trial keeps its count until [`confirm`].

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::facts::{BootFacts, Slot};

/// How often a slot may be started without being found to work.
pub const TRIES_MAX: u8 = 3;
/// A sector: what is read and written.
pub const SECTOR_LEN: usize = 512;
/// The whole block.
pub const BLOCK_LEN: usize = 1024;
/// How a block begins.
const HEAD: &str = "# GRUB Environment Block\n";

/// What is known of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Holds nothing that could be started; `OK=0`.
    Empty,
    /// May be tried; `OK=1`.
    Trial,
    /// Has worked; `OK=2`.
    Confirmed,
}

/// A slot in the boot loader's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotState {
    /// What is known of it.
    pub standing: Standing,
    /// Starts since it last was known to work; it is not taken when there are [`TRIES_MAX`].
    pub tries: u8,
}

/// What the boot loader goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootState {
    /// The slot that is wanted; the other one stands in for it.
    pub wanted: Slot,
    /// Slot A.
    pub a: SlotState,
    /// Slot B.
    pub b: SlotState,
    /// What else is in the block, kept as it is.
    others: Vec<(String, String)>,
}

/// A sector that holds no boot state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BootStateError {
    /// It does not begin as a block does.
    #[error("the sector does not hold the boot loader's state")]
    Head,
    /// It has the beginning and not the content.
    #[error("the boot loader's state has no valid {0}")]
    Field(&'static str),
    /// More is to be said than a sector holds.
    #[error("the boot loader's state does not fit into a sector")]
    Full,
}

impl Default for BootState {
    /// As in a flashed image, and as the boot loader takes it when it finds nothing: both slots may be tried, A first.
    fn default() -> Self {
        let trial = SlotState { standing: Standing::Trial, tries: 0 };
        Self { wanted: Slot::A, a: trial, b: trial, others: Vec::new() }
    }
}

impl BootState {
    /// A slot.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> SlotState {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut SlotState {
        match slot {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        }
    }

    /// The slot the boot loader takes at the next start. With no tries left anywhere it starts counting anew.
    #[must_use]
    pub fn next(&self) -> Slot {
        let may = |s: SlotState| s.standing != Standing::Empty;
        let first = [self.wanted, self.wanted.other()];
        let with_tries = first.into_iter().find(|s| may(self.slot(*s)) && self.slot(*s).tries < TRIES_MAX);
        with_tries.or_else(|| first.into_iter().find(|s| may(self.slot(*s)))).unwrap_or(self.wanted)
    }

    /// The slot works. Which one is wanted stays: when the wanted one has failed, that is still to be seen.
    pub fn confirm(&mut self, slot: Slot) {
        *self.slot_mut(slot) = SlotState { standing: Standing::Confirmed, tries: 0 };
    }

    /// The slot's root is checked: power cuts from here on are not its fault, if it has worked before. False when there is
    /// nothing to be changed.
    pub fn clear_tries_if_confirmed(&mut self, slot: Slot) -> bool {
        let state = self.slot_mut(slot);
        let clear = state.standing == Standing::Confirmed && state.tries != 0;
        if clear {
            state.tries = 0;
        }
        clear
    }

    /// The slot holds something to be tried, and is wanted.
    pub fn want(&mut self, slot: Slot) {
        *self.slot_mut(slot) = SlotState { standing: Standing::Trial, tries: 0 };
        self.wanted = slot;
    }

    /// The slot's content is about to be replaced.
    pub fn empty(&mut self, slot: Slot) {
        *self.slot_mut(slot) = SlotState { standing: Standing::Empty, tries: 0 };
        self.wanted = slot.other();
    }

    /// Reads the first sector of a block.
    ///
    /// # Errors
    /// It holds none.
    pub fn decode(sector: &[u8; SECTOR_LEN]) -> Result<Self, BootStateError> {
        let body = sector.strip_prefix(HEAD.as_bytes()).ok_or(BootStateError::Head)?;
        let text = std::str::from_utf8(body).map_err(|_| BootStateError::Head)?;
        let mut this = Self::default();
        let mut seen = [false; 5];
        const NAMES: [&str; 5] = ["ORDER", "A_OK", "A_TRY", "B_OK", "B_TRY"];
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let Some((name, value)) = line.split_once('=') else { continue };
            match NAMES.iter().position(|n| *n == name) {
                Some(0) => this.wanted = parse_order(value).ok_or(BootStateError::Field("ORDER"))?,
                Some(1) => this.a.standing = parse_standing(value).ok_or(BootStateError::Field("A_OK"))?,
                Some(2) => this.a.tries = parse_tries(value).ok_or(BootStateError::Field("A_TRY"))?,
                Some(3) => this.b.standing = parse_standing(value).ok_or(BootStateError::Field("B_OK"))?,
                Some(4) => this.b.tries = parse_tries(value).ok_or(BootStateError::Field("B_TRY"))?,
                _ => {
                    this.others.push((name.to_owned(), value.to_owned()));
                    continue;
                }
            }
            if let Some(index) = NAMES.iter().position(|n| *n == name) {
                seen[index] = true;
            }
        }
        match seen.iter().position(|s| !s) {
            Some(index) => Err(BootStateError::Field(NAMES[index])),
            None => Ok(this),
        }
    }

    /// The first sector of the block that says this.
    ///
    /// # Errors
    /// What else is in the block leaves no room.
    pub fn encode(&self) -> Result<[u8; SECTOR_LEN], BootStateError> {
        let mut text = String::from(HEAD);
        let order = match self.wanted {
            Slot::A => "a b",
            Slot::B => "b a",
        };
        let ok = |s: SlotState| match s.standing {
            Standing::Empty => 0,
            Standing::Trial => 1,
            Standing::Confirmed => 2,
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "ORDER={order}");
        let _ =
            writeln!(text, "A_OK={}\nA_TRY={}\nB_OK={}\nB_TRY={}", ok(self.a), self.a.tries, ok(self.b), self.b.tries);
        for (name, value) in &self.others {
            let _ = writeln!(text, "{name}={value}");
        }
        if text.len() > SECTOR_LEN {
            return Err(BootStateError::Full);
        }
        let mut sector = [b'#'; SECTOR_LEN];
        sector[..text.len()].copy_from_slice(text.as_bytes());
        Ok(sector)
    }
}

fn parse_order(value: &str) -> Option<Slot> {
    match value {
        "a b" => Some(Slot::A),
        "b a" => Some(Slot::B),
        _ => None,
    }
}

fn parse_standing(value: &str) -> Option<Standing> {
    match value {
        "0" => Some(Standing::Empty),
        "1" => Some(Standing::Trial),
        "2" => Some(Standing::Confirmed),
        _ => None,
    }
}

fn parse_tries(value: &str) -> Option<u8> {
    value.parse().ok().filter(|tries| *tries <= TRIES_MAX)
}

/// Where the state is: a partition, and a sector in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The EFI system partition's device.
    pub device: PathBuf,
    /// Counted from the partition's begin.
    pub sector: u64,
}

/// Direct transfers want memory that is aligned like a sector; a page is enough for every disk.
#[repr(C, align(4096))]
struct Aligned([u8; SECTOR_LEN]);

impl Place {
    /// The state on the disk; none when the sector holds none.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn read(&self) -> Result<Option<BootState>> {
        let file = open(&self.device, false)?;
        Ok(BootState::decode(&self.read_sector(&file)?).ok())
    }

    fn read_sector(&self, file: &File) -> Result<[u8; SECTOR_LEN]> {
        let mut buffer = Aligned([0; SECTOR_LEN]);
        file.read_exact_at(&mut buffer.0, self.at()).context("read the boot loader's state")?;
        Ok(buffer.0)
    }

    fn at(&self) -> u64 {
        self.sector * SECTOR_LEN as u64
    }

    /// Writes the state in one sector, and reads it back.
    ///
    /// # Errors
    /// The disk refuses, or gives back something else.
    pub fn write(&self, state: &BootState) -> Result<()> {
        let buffer = Aligned(state.encode()?);
        let file = open(&self.device, true)?;
        file.write_all_at(&buffer.0, self.at()).context("write the boot loader's state")?;
        file.sync_all().context("flush the boot loader's state")?;
        if self.read_sector(&file)? != buffer.0 {
            bail!("the disk does not give back the boot loader's state");
        }
        Ok(())
    }

    /// The state, changed and written when that is needed. A damaged one is made anew: the boot loader cannot count without.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn update(&self, change: impl FnOnce(&mut BootState)) -> Result<BootState> {
        let before = self.read()?;
        let mut state = before.clone().unwrap_or_default();
        change(&mut state);
        if before.as_ref() != Some(&state) {
            self.write(&state)?;
        }
        Ok(state)
    }
}

fn open(device: &Path, write: bool) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(write).custom_flags(nix::libc::O_DIRECT | nix::libc::O_DSYNC);
    options.open(device).with_context(|| format!("open {}", device.display()))
}

/// The slot that runs works: it is started again from here on.
///
/// # Errors
/// The disk refuses; the boot loader then goes on counting.
pub fn confirm(facts: &BootFacts) -> Result<()> {
    let state = facts.state.as_ref().context("the boot loader has not said where its state is")?;
    state.update(|s| s.confirm(facts.slot)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn standings() -> impl Strategy<Value = Standing> {
        prop_oneof![Just(Standing::Empty), Just(Standing::Trial), Just(Standing::Confirmed)]
    }

    fn slots() -> impl Strategy<Value = SlotState> {
        (standings(), 0..=TRIES_MAX).prop_map(|(standing, tries)| SlotState { standing, tries })
    }

    fn states() -> impl Strategy<Value = BootState> {
        let others = proptest::collection::vec(("[A-Z]_[a-z]{1,5}", "[ -~]{0,10}"), 0..8);
        (any::<bool>(), slots(), slots(), others).prop_map(|(first, a, b, others)| BootState {
            wanted: if first { Slot::A } else { Slot::B },
            a,
            b,
            others,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(state in states()) {
            let sector = state.encode().unwrap();
            prop_assert_eq!(BootState::decode(&sector), Ok(state));
        }

        #[test]
        fn any_sector_is_refused_or_says_something_that_can_be_written(mut sector in proptest::array::uniform32(any::<u8>())
            .prop_map(|b| { let mut s = [b'#'; SECTOR_LEN]; s[100..132].copy_from_slice(&b); s }), state in states())
        {
            let good = state.encode().unwrap();
            sector[..100].copy_from_slice(&good[..100]);
            if let Ok(read) = BootState::decode(&sector) {
                prop_assert_eq!(BootState::decode(&read.encode().unwrap()), Ok(read));
            }
        }

        /// With `next` standing for the boot loader: a slot on trial that never works is left after three starts, and one that
        /// has worked before is never left because of power cuts after the check of its root.
        #[test]
        fn a_slot_on_trial_is_left_after_its_tries(wanted_works in any::<bool>(), starts in 1_usize..20) {
            let mut state = BootState::default();
            state.confirm(Slot::A);
            state.want(Slot::B);
            if wanted_works {
                state.confirm(Slot::B);
            }
            for start in 0..starts {
                let slot = state.next();
                prop_assert_eq!(slot == Slot::B, wanted_works || start < usize::from(TRIES_MAX));
                state.slot_mut(slot).tries += 1;
                state.clear_tries_if_confirmed(slot);
            }
        }
    }

    #[test]
    fn the_state_is_as_the_boot_loader_reads_it() {
        let mut state = BootState::default();
        state.confirm(Slot::A);
        state.want(Slot::B);
        let sector = state.encode().unwrap();
        let text = "# GRUB Environment Block\nORDER=b a\nA_OK=2\nA_TRY=0\nB_OK=1\nB_TRY=0\n####";
        assert!(sector.starts_with(text.as_bytes()));
        assert_eq!(sector[SECTOR_LEN - 1], b'#');
    }

    #[test]
    fn what_is_no_state_is_refused() {
        assert_eq!(BootState::decode(&[0; SECTOR_LEN]), Err(BootStateError::Head));
        let good = BootState::default().encode().unwrap();
        for (from, to, field) in [
            ("ORDER=a b", "ORDER=a a", "ORDER"),
            ("A_OK=1", "A_OK=3", "A_OK"),
            ("B_TRY=0", "B_TRY=4", "B_TRY"),
            ("A_TRY=0", "#_TRY=0", "A_TRY"),
        ] {
            let text = String::from_utf8(good.to_vec()).unwrap().replace(from, to);
            let sector: [u8; SECTOR_LEN] = text.as_bytes().try_into().unwrap();
            assert_eq!(BootState::decode(&sector), Err(BootStateError::Field(field)), "{to}");
        }
        let state = BootState { others: vec![("X".into(), "y".repeat(SECTOR_LEN))], ..BootState::default() };
        assert_eq!(state.encode(), Err(BootStateError::Full));
    }

    #[test]
    fn one_sector_is_changed_and_no_other() {
        // Direct transfers need a real file system; the folder for temporary files is often in memory.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let device = dir.path().join("esp");
        std::fs::write(&device, vec![0xee; 16 * SECTOR_LEN]).unwrap();
        let place = Place { device: device.clone(), sector: 5 };
        assert_eq!(place.read().unwrap(), None);
        // It is made anew where there is none.
        let state = place.update(|s| s.confirm(Slot::A)).unwrap();
        assert_eq!(state.a.standing, Standing::Confirmed);
        assert_eq!(place.read().unwrap(), Some(state.clone()));
        let bytes = std::fs::read(&device).unwrap();
        assert!(bytes[..5 * SECTOR_LEN].iter().chain(&bytes[6 * SECTOR_LEN..]).all(|b| *b == 0xee));
        assert_eq!(bytes[5 * SECTOR_LEN..6 * SECTOR_LEN], state.encode().unwrap());
    }
}
