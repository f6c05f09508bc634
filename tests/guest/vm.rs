//! QEMU, and the conversation with the script inside.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::image::Image;
use crate::cpio::Archive;

/// Memory of a guest: programs and page cache; nothing of it is kept on the host's disk.
const MEMORY_MIB: u32 = 768;

/// A guest says its first word about 10 s after its start; on a machine with much else to do, later. In software emulation a
/// kernel now and then stands still before its first process: after this time the guest is started again.
const FIRST_WORD_SECS_MAX: u64 = 60;
const STARTS_MAX: u32 = 3;

/// The two channels are told apart by the kernel's names: messages for people on ttyS0, the conversation on ttyS1.
const KERNEL_LINE: &str = "console=ttyS0 8250.nr_uarts=2 loglevel=6 panic=-1 mitigations=off nokaslr tsc=reliable \
                           log_buf_len=2M random.trust_cpu=on net.ifnames=0";

/// What a guest is started with.
pub(super) struct Boot<'a> {
    pub(super) image: &'a Image,
    /// The files of `/job`, which the guest's start script reads.
    pub(super) job: Vec<(String, Vec<u8>)>,
    /// A disk of the guest's own, `/dev/vdb`.
    pub(super) disk: Option<PathBuf>,
    /// The console's log; its name with `.talk` behind it is the log of the conversation.
    pub(super) log: PathBuf,
    pub(super) secs_max: u64,
}

/// Something the guest said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Begin(String),
    Ok(String, String),
    Failed(String, String),
    NotOffered(String, String),
    Note(String, String),
    /// The host shall do something and answer.
    Ask(Vec<String>),
    /// What the guest relies on to be there after a crash.
    Kept(String),
    End,
}

impl Said {
    /// A line of the conversation; none for what is no part of it.
    fn parse(line: &str) -> Option<Self> {
        let (verb, rest) = line.trim().strip_prefix('@')?.split_once(' ').unwrap_or((line.trim().get(1..)?, ""));
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let (name, text) = (name.to_owned(), text.trim().to_owned());
        Some(match verb {
            "begin" => Self::Begin(name),
            "ok" => Self::Ok(name, text),
            "failed" => Self::Failed(name, text),
            "not-offered" => Self::NotOffered(name, text),
            "note" => Self::Note(name, text),
            "ask" => Self::Ask(rest.split_whitespace().map(str::to_owned).collect()),
            "kept" => Self::Kept(rest.to_owned()),
            "end" => Self::End,
            _ => return None,
        })
    }
}

/// A guest that runs. Dropping it kills it: its disk is thrown away anyway.
pub(super) struct Vm {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
    talk: File,
    deadline: Instant,
    /// The first thing it said, not yet taken.
    first: Option<Said>,
}

impl Vm {
    /// A guest that has said its first word.
    pub(super) fn start(boot: &Boot<'_>) -> Result<Self> {
        let mut starts = 1;
        loop {
            let mut this = Self::spawn(boot)?;
            let whole =
                std::mem::replace(&mut this.deadline, Instant::now() + Duration::from_secs(FIRST_WORD_SECS_MAX));
            match this.next() {
                Ok(first) => {
                    (this.first, this.deadline) = (first, whole);
                    return Ok(this);
                }
                Err(error) if starts < STARTS_MAX => {
                    println!("the guest has not come up ({error:#}); starting it again");
                    drop(this);
                    std::fs::rename(&boot.log, boot.log.with_extension(format!("start-{starts}.log")))?;
                    starts += 1;
                }
                Err(error) => return Err(error.context("start the guest")),
            }
        }
    }

    fn spawn(boot: &Boot<'_>) -> Result<Self> {
        let initrd = boot.log.with_extension("initrd");
        let mut bytes = std::fs::read(&boot.image.initrd).context("read the initial RAM disk")?;
        let mut job = Archive::default();
        for (name, content) in &boot.job {
            job.file(&format!("job/{name}"), 0o755, content);
        }
        // The kernel reads one archive after the other.
        bytes.extend(job.finish());
        std::fs::write(&initrd, bytes).with_context(|| format!("write {}", initrd.display()))?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-machine", "pc", "-cpu", "max", "-smp", "2", "-m"]);
        command.args([&MEMORY_MIB.to_string(), "-nodefaults", "-no-reboot", "-display", "none", "-vga", "none"]);
        command.arg("-serial").arg(prefixed("file:", &boot.log)).args(["-serial", "stdio"]);
        command.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        // What the guest writes to its root is thrown away.
        command.arg("-drive").arg(drive("root", &boot.image.root, "snapshot=on"));
        command.args(["-device", "virtio-blk-pci,drive=root"]);
        if let Some(disk) = &boot.disk {
            command.arg("-drive").arg(drive("own", disk, "cache=writeback"));
            command.args(["-device", "virtio-blk-pci,drive=own"]);
        }
        command.arg("-kernel").arg(&boot.image.kernel).arg("-initrd").arg(&initrd);
        command.args(["-append", KERNEL_LINE]);
        let errors = File::create(boot.log.with_extension("qemu"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().context("start QEMU")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = (input.context("QEMU's input")?, output.context("QEMU's output")?);
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let talk = File::create(boot.log.with_extension("talk"))?;
        let deadline = Instant::now() + Duration::from_secs(boot.secs_max);
        Ok(Self { child, input, lines, talk, deadline, first: None })
    }

    /// The next thing the guest says; none when it has ended.
    pub(super) fn next(&mut self) -> Result<Option<Said>> {
        if let Some(said) = self.first.take() {
            return Ok(Some(said));
        }
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    writeln!(self.talk, "{}", line.trim_end())?;
                    if let Some(said) = Said::parse(&line) {
                        return Ok(Some(said));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => bail!("its time is over"),
            }
        }
    }

    /// Answers what the guest asked for.
    pub(super) fn answer(&mut self, outcome: &Result<String>) -> Result<()> {
        let text = match outcome {
            Ok(text) => format!("ok {text}"),
            Err(error) => format!("no {error:#}"),
        };
        writeln!(self.talk, "> {text}")?;
        // One line, whatever the error holds.
        writeln!(self.input, "{}", text.replace('\n', " ")).context("answer the guest")?;
        Ok(self.input.flush()?)
    }

    /// The power goes: SIGKILL.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until QEMU has ended after the guest's last word.
    pub(super) fn wait(mut self) -> Result<()> {
        while self.child.try_wait()?.is_none() {
            if Instant::now() > self.deadline {
                bail!("the guest does not power off");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
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

fn prefixed(prefix: &str, path: &Path) -> String {
    format!("{prefix}{}", path.display())
}

fn drive(id: &str, file: &Path, more: &str) -> String {
    // A comma in a path is doubled for QEMU.
    let file = file.display().to_string().replace(',', ",,");
    format!("file={file},format=raw,if=none,id={id},{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        assert_eq!(Said::parse("@begin login\r"), Some(Said::Begin("login".into())));
        assert_eq!(Said::parse("@failed xfs no such file"), Some(Said::Failed("xfs".into(), "no such file".into())));
        assert_eq!(Said::parse("@ok xfs"), Some(Said::Ok("xfs".into(), String::new())));
        assert_eq!(Said::parse("@ask resize 1G"), Some(Said::Ask(vec!["resize".into(), "1G".into()])));
        assert_eq!(Said::parse("@kept 12 64"), Some(Said::Kept("12 64".into())));
        assert_eq!(Said::parse("@end"), Some(Said::End));
        assert_eq!(Said::parse("a line of a program"), None);
        assert_eq!(Said::parse("@unknown word"), None);
    }
}
