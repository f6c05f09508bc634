//! The boxes that the guest talks to, and what scenes may do to them.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use xtask::ports;

use super::Host;
use super::relay::{Line, Relay};
use crate::boxes::{self, Api, Pair, Process, signal, start_box, until};
use crate::process::run;

/// Size of the volume: XFS takes 300 MiB at least.
const VOLUME_BYTES: u64 = 512 << 20;

/// So often the boxes are started when they do not come up.
const STARTS_MAX: u32 = 3;

/// Both boxes, and a relay in front of the source's second portal.
pub(super) struct World {
    /// The source after its restart. Before `pair`: what is started last is stopped first.
    source: Option<Process>,
    pair: Pair,
    api: Api,
    relay: Relay,
    binary: PathBuf,
    /// The initiator that has to prove itself.
    chap: Option<String>,
    pub(super) iqn: String,
    /// Ports of the host at which the guest finds the two portals.
    pub(super) ports: [u16; 2],
    /// Behind the processes that use it.
    _place: Place,
}

/// The folder of the boxes.
struct Place {
    dir: PathBuf,
    keep: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            eprintln!("remove {}: {error}", self.dir.display());
        }
    }
}

impl World {
    pub(super) fn start(binary: &Path, dir: &Path, keep: bool) -> Result<Self> {
        let place = Place { dir: dir.join("boxes"), keep };
        if place.dir.exists() {
            std::fs::remove_dir_all(&place.dir).context("remove the boxes of the last run")?;
        }
        let pair = pair(binary, &place.dir)?;
        let mut parts = pair.source.url.trim_start_matches("iscsi://").split('/');
        let (first, iqn) = (parts.next().context("address")?, parts.next().context("IQN")?.to_owned());
        let first: SocketAddr = first.parse().context("address of the portal")?;
        let second = ports::free()?;
        // The demo's boxes have one portal; the source goes on with two.
        let settings = std::fs::read_to_string(&pair.config).context("read the settings of the source")?;
        let (one, two) = (format!("listen = [\"{first}\"]"), format!("listen = [\"{first}\", \"{second}\"]"));
        if !settings.contains(&one) {
            bail!("the source's settings have no line {one:?}");
        }
        std::fs::write(&pair.config, settings.replace(&one, &two))?;
        let relay = Relay::start(second)?;
        let api = pair.source.api.clone().context("the source has no API")?;
        let ports = [first.port(), relay.port()];
        let binary = binary.to_owned();
        let mut this = Self { source: None, pair, api, relay, binary, chap: None, iqn, ports, _place: place };
        this.kill_source()?;
        this.start_source()?;
        Ok(this)
    }

    fn kill_source(&mut self) -> Result<()> {
        let pid = self.source.as_ref().map_or(self.pair.source.pid, Process::pid);
        signal("KILL", pid)?;
        // One of ours is waited for here, the first one by the demo.
        self.source = None;
        until("the source is gone", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()))
    }

    fn start_source(&mut self) -> Result<()> {
        self.source = Some(start_box(&self.binary, &self.pair.config)?);
        until("the source serves its volume", || {
            let group = self.api.answers().then(|| self.api.group().ok()).flatten()?;
            (group["volumes"][0]["state"]["kind"] == "ready").then_some(())
        })
    }

    /// The box's list of initiators: a look at it, or a change.
    fn initiators(&self, action: &str, change: Option<&Value>) -> Result<()> {
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "30",
            "--output",
            "/dev/null",
            "--unix-socket",
        ]);
        command.arg(&self.api.socket).arg(format!("http://box/api/v1/initiators{action}"));
        match change {
            Some(change) => {
                command.args(["--header", "content-type: application/json", "--data", &change.to_string()]);
            }
            // A box without initiators says so by an error, which is the answer.
            None => {
                command.stderr(Stdio::null());
            }
        }
        run(&mut command)
    }

    /// Undoes what a scene that came to no good end may have left.
    pub(super) fn put_right(&mut self) -> Result<()> {
        self.relay.set(Line::Whole);
        if !self.api.answers() {
            self.start_source()?;
        }
        match self.chap.take() {
            Some(name) => self.initiators("/remove", Some(&json!({ "name": name }))),
            None => Ok(()),
        }
    }

    /// Waits until nothing is left to do, then compares the homes of both boxes.
    pub(super) fn homes_equal(&self) -> Result<String> {
        self.api.settle()?;
        // The mirror's home follows its journal.
        until("the mirror's home is up to date", || {
            let at = self.pair.mirror_api.group().ok()?["positions"].take();
            let written = self.api.group().ok()?["positions"]["written"].as_u64()?;
            (at["applied"].as_u64()? >= written).then_some(())
        })?;
        let bytes = equal(&self.pair.homes[0], &self.pair.homes[1])?;
        Ok(format!("{} MiB", bytes >> 20))
    }
}

impl Host for World {
    fn obey(&mut self, words: &[String]) -> Result<String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["line", "silent"] => self.relay.set(Line::Silent),
            ["line", "closed"] => self.relay.set(Line::Closed),
            ["line", "whole"] => self.relay.set(Line::Whole),
            ["kill-source"] => self.kill_source()?,
            ["start-source"] => self.start_source()?,
            ["can-resize"] => {
                let mut command = Command::new(&self.binary);
                let said = command.args(["volume", "--help"]).output().context("ask the binary for its commands")?;
                let can = String::from_utf8_lossy(&said.stdout).lines().any(|l| l.trim().starts_with("resize"));
                return Ok(if can { "yes" } else { "no" }.to_owned());
            }
            ["can-chap"] => return Ok(if self.initiators("", None).is_ok() { "yes" } else { "no" }.to_owned()),
            ["chap", name, user, secret, mutual_user, mutual_secret] => {
                let chap = json!({
                    "user": user, "secret": secret, "mutual_user": mutual_user, "mutual_secret": mutual_secret,
                });
                self.initiators("", Some(&json!({ "name": name, "chap": chap })))?;
                self.chap = Some((*name).to_owned());
            }
            ["resize", size] => drop(self.api.ask(&["volume", "resize", "disk", "--size", size])?),
            other => bail!("the host knows no {other:?}"),
        }
        Ok(String::new())
    }
}

/// Starts the pair. Its ports were free when they were chosen; another process may be quicker, so there is more than one try.
fn pair(binary: &Path, dir: &Path) -> Result<Pair> {
    let mut tries = 1;
    loop {
        match boxes::pair(binary, dir, VOLUME_BYTES) {
            Err(error) if tries < STARTS_MAX => {
                println!("start the boxes again: {error:#}");
                std::fs::remove_dir_all(dir).context("remove the boxes that did not start")?;
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Compares two files; gives their length.
fn equal(first: &Path, second: &Path) -> Result<u64> {
    const PIECE: usize = 1 << 20;
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let (mut one, mut two) = (open(first)?, open(second)?);
    let (mut a, mut b) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
    let mut at = 0;
    loop {
        a.clear();
        b.clear();
        one.by_ref().take(PIECE as u64).read_to_end(&mut a)?;
        two.by_ref().take(PIECE as u64).read_to_end(&mut b)?;
        if a != b {
            let within = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
            bail!("the homes differ at byte {}", at + within as u64);
        }
        if a.is_empty() {
            return Ok(at);
        }
        at += a.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_compared_byte_for_byte() {
        let dir = std::env::temp_dir().join(format!("reprise-xtask-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let (one, two) = (dir.join("one"), dir.join("two"));
        let mut bytes = vec![7; (1 << 20) + 5];
        std::fs::write(&one, &bytes).expect("write");
        std::fs::write(&two, &bytes).expect("write");
        assert_eq!(equal(&one, &two).expect("equal"), bytes.len() as u64);
        bytes[(1 << 20) + 2] = 8;
        std::fs::write(&two, &bytes).expect("write");
        let error = equal(&one, &two).expect_err("they differ");
        assert!(error.to_string().contains("1048578"), "{error}");
        bytes.truncate(100);
        std::fs::write(&two, &bytes).expect("write");
        assert!(equal(&one, &two).is_err());
        std::fs::remove_dir_all(&dir).expect("remove");
    }
}
