//! A machine in QEMU that starts from a disk, and its serial line.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const CODE_SECURE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";

/// What the machine starts with.
#[derive(Debug, Clone)]
pub(crate) enum Firmware {
    Bios,
    /// The variables' file, which is written to.
    Uefi(PathBuf),
    /// The same, with keys in it.
    SecureBoot(PathBuf),
}

/// How the machine sees its disk: each case takes another one, so that each driver is used.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bus {
    Ahci,
    Nvme,
    Virtio,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) firmware: Firmware,
    pub(crate) bus: Bus,
    pub(crate) disk: PathBuf,
    pub(crate) memory_mib: u32,
    /// QEMU's options for more disks and for network cards.
    pub(crate) more: Vec<String>,
    /// All that comes over the serial line.
    pub(crate) log: PathBuf,
}

/// A machine that runs. Dropping it pulls the plug.
pub(crate) struct Vm {
    child: Child,
    pub(crate) serial: Serial,
}

/// The serial line: what has come, and what has been seen of it.
pub(crate) struct Serial {
    input: ChildStdin,
    pieces: mpsc::Receiver<Vec<u8>>,
    log: File,
    started: Instant,
    /// Come, and not yet seen.
    text: Vec<u8>,
}

impl Machine {
    /// Switches it on.
    pub(crate) fn start(&self) -> Result<Vm> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", &self.memory_mib.to_string()]);
        command.args(["-nodefaults", "-display", "none", "-vga", "none", "-serial", "stdio"]);
        command.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
        match &self.firmware {
            Firmware::Bios => {
                command.args(["-machine", "q35"]);
            }
            Firmware::Uefi(variables) => {
                command.args(["-machine", "q35"]).args(flash(Path::new(CODE), variables));
            }
            Firmware::SecureBoot(variables) => {
                // Else the system could write the variables past the firmware.
                command.args(["-machine", "q35,smm=on", "-global", "ICH9-LPC.disable_s3=1"]);
                command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
                command.args(flash(Path::new(CODE_SECURE), variables));
            }
        }
        command.arg("-drive").arg(format!("file={},format=raw,if=none,id=boot", file_option(&self.disk)));
        command.arg("-device").arg(match self.bus {
            Bus::Ahci => "ide-hd,drive=boot,bus=ide.0,serial=BOOT,bootindex=0",
            Bus::Nvme => "nvme,drive=boot,serial=BOOT,bootindex=0",
            Bus::Virtio => "virtio-blk-pci,drive=boot,serial=BOOT,bootindex=0",
        });
        command.args(&self.more);
        let errors = File::create(self.log.with_extension("qemu"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let log = File::create(&self.log).with_context(|| format!("write {}", self.log.display()))?;
        let mut child = command.spawn().context("start QEMU")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, mut output) = (input.context("QEMU's input")?, output.context("QEMU's output")?);
        let (send, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut buffer) {
                if send.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        let serial = Serial { input, pieces, log, started: Instant::now(), text: Vec::new() };
        Ok(Vm { child, serial })
    }
}

fn flash(code: &Path, variables: &Path) -> [String; 4] {
    let (code, variables) = (file_option(code), file_option(variables));
    [
        "-drive".to_owned(),
        format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"),
        "-drive".to_owned(),
        format!("if=pflash,format=raw,unit=1,file={variables}"),
    ]
}

/// A comma in a path is doubled for QEMU.
fn file_option(file: &Path) -> String {
    file.display().to_string().replace(',', ",,")
}

impl Vm {
    /// Waits until the machine has switched itself off.
    pub(crate) fn wait_off(mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                bail!("the machine is still on after {} s", limit.as_secs());
            }
            // What it says is let through, so that it does not stand still for it.
            let _ = self.serial.more(Instant::now() + Duration::from_millis(50));
        }
        Ok(())
    }

    /// The power goes: SIGKILL.
    pub(crate) fn power_off(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end between the look and the signal.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Serial {
    /// Waits until one of the texts comes, forgets all up to its end, and gives its index and the time since the machine was
    /// switched on.
    pub(crate) fn expect_any(&mut self, texts: &[&str], limit: Duration) -> Result<(usize, Duration)> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((index, end)) = first_of(&self.text, texts) {
                self.text.drain(..end);
                return Ok((index, self.started.elapsed()));
            }
            if !self.more(deadline)? {
                bail!("none of {texts:?} within {} s; the last was {:?}", limit.as_secs(), self.last_line());
            }
        }
    }

    /// Takes what comes next; false when nothing has come by then.
    fn more(&mut self, deadline: Instant) -> Result<bool> {
        match self.pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(piece) => {
                self.log.write_all(&piece)?;
                self.text.extend(piece);
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => bail!("QEMU has ended; the last was {:?}", self.last_line()),
        }
    }

    /// All that has come and was not seen, as bytes: waits for some until then.
    pub(crate) fn take(&mut self, deadline: Instant) -> Result<Vec<u8>> {
        if self.text.is_empty() {
            self.more(deadline)?;
        }
        Ok(std::mem::take(&mut self.text))
    }

    /// Waits until the text comes, and gives the time since the machine was switched on.
    pub(crate) fn expect(&mut self, text: &str, limit: Duration) -> Result<Duration> {
        self.expect_any(&[text], limit).map(|(_, at)| at)
    }

    /// Types. A line ends with `\r`.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        self.input.write_all(text.as_bytes()).context("type at the serial line")?;
        Ok(self.input.flush()?)
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.text).into_owned();
        text.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or_default().to_owned()
    }
}

/// Which text comes first, and where it ends.
fn first_of(haystack: &[u8], texts: &[&str]) -> Option<(usize, usize)> {
    let place = |text: &str| haystack.windows(text.len()).position(|w| w == text.as_bytes());
    let found = texts.iter().enumerate().filter_map(|(index, text)| Some((place(text)?, index, text.len())));
    found.min().map(|(at, index, len)| (index, at + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_text_counts_and_not_the_first_asked_for() {
        let said = b"reprise: slot b fails\r\nreprise: slot a serves";
        assert_eq!(first_of(said, &["slot a", "slot b"]), Some((1, 15)));
        assert_eq!(first_of(said, &["slot c"]), None);
        assert_eq!(first_of(said, &["slot b fails\r\nr"]), Some((0, 24)));
    }
}
