//! Kernel modules: what a device asks for, with all it leans on.
//!
//! The index is the one `depmod` makes: `modules.dep` (what needs what), `modules.alias` (which device wants what) and
//! `modules.softdep` (what has to be there although no symbol says so).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::watchdog;

/// Devices bring others to light (a controller its disks); after so many rounds there is nothing more.
const ROUNDS_MAX: usize = 4;
/// Folders of `/sys/devices` are no deeper.
const DEPTH_MAX: usize = 24;

/// The modules of one kernel, and which of them have been loaded here.
#[derive(Debug)]
pub struct Modules {
    folder: PathBuf,
    /// By name: its path, and the paths it needs, the one to be loaded first being last.
    files: HashMap<String, Vec<String>>,
    aliases: Vec<(String, String)>,
    before: HashMap<String, Vec<String>>,
    done: HashSet<String>,
}

impl Modules {
    /// Reads the index of the kernel that runs, below `/lib/modules`.
    ///
    /// # Errors
    /// There is none.
    pub fn of_this_kernel() -> Result<Self> {
        let name = nix::sys::utsname::uname().context("ask for the kernel's name")?;
        Self::read(&Path::new("/lib/modules").join(name.release()))
    }

    fn read(folder: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        Ok(Self {
            folder: folder.to_owned(),
            files: parse_dep(&text("modules.dep")?),
            aliases: parse_alias(&text("modules.alias")?),
            before: parse_softdep(&text("modules.softdep")?),
            done: HashSet::new(),
        })
    }

    /// Loads a module and what it needs; it is no error that it is there already.
    ///
    /// # Errors
    /// The index has no such module, or the kernel refuses it.
    pub fn load(&mut self, name: &str) -> Result<()> {
        let name = plain(name);
        if !self.done.insert(name.clone()) {
            return Ok(());
        }
        let files = self.files.get(&name).cloned().with_context(|| format!("no module {name}"))?;
        for before in self.before.get(&name).cloned().unwrap_or_default() {
            // A wish, not a need; it may be an alias or be built into the kernel.
            let _ = self.load(&before);
        }
        for file in files.iter().rev() {
            let part = stem(file);
            if part == name || self.done.insert(part.clone()) {
                self.insert(file, parameters(&part))?;
            }
        }
        Ok(())
    }

    fn insert(&self, file: &str, parameters: &std::ffi::CStr) -> Result<()> {
        let path = self.folder.join(file);
        let opened = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        match finit_module(&opened, parameters, ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("load {file}")),
        }
    }

    /// Loads what the devices of this machine ask for, and gives the names of what was loaded. A driver that does not want its
    /// device is no error: the device is then missing, and whoever needs it says so.
    pub fn coldplug(&mut self) -> Vec<String> {
        let mut loaded = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let mut wanted = HashSet::new();
            for device in modaliases(Path::new("/sys/devices")) {
                wanted.extend(self.aliases.iter().filter(|(p, _)| matches(p, &device)).map(|(_, name)| name.clone()));
            }
            let mut wanted: Vec<String> = wanted.into_iter().filter(|name| !self.done.contains(name)).collect();
            if wanted.is_empty() {
                break;
            }
            wanted.sort();
            for name in wanted {
                if self.load(&name).is_ok() {
                    loaded.push(name);
                }
            }
        }
        loaded
    }
}

/// Parameters a module is loaded with.
fn parameters(name: &str) -> &'static std::ffi::CStr {
    if watchdog::MODULES.contains(&name) { c"nowayout=1" } else { c"" }
}

/// A module's name, in which `-` and `_` are the same.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn stem(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    plain(file.split('.').next().unwrap_or(file))
}

fn parse_dep(text: &str) -> HashMap<String, Vec<String>> {
    let lines = text.lines().filter_map(|l| l.split_once(':'));
    let files = lines.map(|(path, needed)| {
        let all = std::iter::once(path).chain(needed.split_whitespace()).map(str::to_owned);
        (stem(path), all.collect())
    });
    files.collect()
}

fn parse_alias(text: &str) -> Vec<(String, String)> {
    let words = text.lines().filter_map(|l| l.strip_prefix("alias ")).filter_map(|l| l.rsplit_once(' '));
    words.map(|(pattern, name)| (pattern.to_owned(), plain(name))).collect()
}

/// `softdep NAME pre: A B post: C`; what comes after is left to the device that asks for it.
fn parse_softdep(text: &str) -> HashMap<String, Vec<String>> {
    let mut before = HashMap::new();
    for line in text.lines().filter_map(|l| l.strip_prefix("softdep ")) {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let words = words.skip_while(|w| *w != "pre:").skip(1).take_while(|w| *w != "post:");
        before.insert(plain(name), words.map(plain).collect());
    }
    before
}

/// What every device below a folder calls itself.
fn modaliases(devices: &Path) -> HashSet<String> {
    let mut all = HashSet::new();
    let mut folders = vec![(devices.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < DEPTH_MAX {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() && entry.file_name() == "modalias" {
                // The device may have gone meanwhile.
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                if !text.trim().is_empty() {
                    all.insert(text.trim().to_owned());
                }
            }
        }
    }
    all
}

/// The shell's patterns, as far as the index uses them: `*`, `?` and `[a-z]`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut again: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                again = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(p + 1),
            Some(b'[') => in_class(pattern, p, text[t]),
            Some(byte) if *byte == text[t] => Some(p + 1),
            _ => None,
        };
        match (step, again) {
            (Some(next), _) => (p, t) = (next, t + 1),
            (None, Some((after_star, from))) => {
                again = Some((after_star, from + 1));
                (p, t) = (after_star, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// The place behind a class that begins at `at`, when it holds the byte.
fn in_class(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    let end = at + pattern[at..].iter().position(|b| *b == b']')?;
    let mut class = &pattern[at + 1..end];
    while let Some((first, rest)) = class.split_first() {
        let (last, rest) = match rest {
            [b'-', last, rest @ ..] => (last, rest),
            _ => (first, rest),
        };
        if (*first..=*last).contains(&byte) {
            return Some(end + 1);
        }
        class = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_read() {
        let files =
            parse_dep("kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2.ko\nkernel/a/crc32c-intel.ko:\n");
        assert_eq!(files["ext4"], ["kernel/fs/ext4/ext4.ko", "kernel/lib/crc16.ko", "kernel/fs/jbd2.ko"]);
        assert_eq!(files["crc32c_intel"], ["kernel/a/crc32c-intel.ko"]);
        let aliases = parse_alias("# head\nalias pci:v00008086d*sv* i2c-i801\nalias x y\n");
        assert_eq!(aliases, [("pci:v00008086d*sv*".to_owned(), "i2c_i801".to_owned()), ("x".into(), "y".into())]);
        let before = parse_softdep("softdep erofs pre: crc32c post: late\nsoftdep x post: z\n");
        assert_eq!(before["erofs"], ["crc32c"]);
        assert!(before["x"].is_empty());
    }

    #[test]
    fn patterns_match_as_in_the_shell() {
        for (pattern, text, fits) in [
            ("pci:v00001AF4d00001001sv*sd*bc*sc*i*", "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00", true),
            ("pci:v00001AF4d00001001sv*sd*bc*sc*i*", "pci:v00001AF4d00001002sv00001AF4sd00000002bc01sc00i00", false),
            (
                "cpu:type:x86,ven*fam*mod*:feature:*0094*",
                "cpu:type:x86,ven0000fam0006mod0006:feature:,0000,0094,0099",
                true,
            ),
            ("a[0-3x]?", "a2z", true),
            ("a[0-3x]?", "axz", true),
            ("a[0-3x]?", "a4z", false),
            ("a[0", "a0", false),
            ("*", "", true),
            ("", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn watchdogs_cannot_be_disarmed() {
        assert_eq!(parameters("softdog"), c"nowayout=1");
        assert_eq!(parameters("ext4"), c"");
    }
}
