//! Boxes as processes, and pairs of them.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use xtask::ports;

use crate::http::{Answer, call};

/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(30);
/// Everything that boxes do by themselves must be done in this time on a busy machine.
pub(crate) const HEAL_SECS_MAX: u64 = 60;

/// A box: its settings, its process, its addresses.
pub(crate) struct Appliance {
    reprise: PathBuf,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) iscsi: SocketAddr,
    pub(crate) link: SocketAddr,
    /// Environment of the process.
    pub(crate) env: Vec<(String, String)>,
    child: Option<Child>,
}

/// What of the settings differs between tests.
#[derive(Clone)]
pub(crate) struct BoxPlan<'a> {
    pub(crate) name: &'a str,
    /// Size of the pool.
    pub(crate) size: &'a str,
}

impl Appliance {
    /// Writes the settings and starts the box.
    pub(crate) async fn start(reprise: &Path, dir: &Path, plan: &BoxPlan<'_>) -> Result<Self> {
        let mut this = Self::planned(reprise, dir, plan)?;
        this.run().await?;
        Ok(this)
    }

    /// Writes the settings only.
    pub(crate) fn planned(reprise: &Path, dir: &Path, plan: &BoxPlan<'_>) -> Result<Self> {
        let dir = dir.join(plan.name);
        std::fs::create_dir_all(&dir).with_context(|| format!("make directory {}", dir.display()))?;
        let (iscsi, link) = two_free_addresses()?;
        let this = Self {
            reprise: reprise.to_owned(),
            name: plan.name.into(),
            dir,
            iscsi,
            link,
            env: Vec::new(),
            child: None,
        };
        std::fs::write(this.config(), this.settings(plan.size)).context("write box.toml")?;
        Ok(this)
    }

    /// Puts other lines in the place of the settings' section `[pool]`.
    pub(crate) fn set_pool(&self, lines: &str) -> Result<()> {
        let text = std::fs::read_to_string(self.config())?;
        let (head, rest) = text.split_once("[pool]\n").context("a section of the pool")?;
        let (_, rest) = rest.split_once("[iscsi]").context("a section behind it")?;
        std::fs::write(self.config(), format!("{head}[pool]\n{lines}\n[iscsi]{rest}")).context("write box.toml")
    }

    /// Has the box tell its peer another address than its own, so that the way there leads past nobody's relay.
    pub(crate) fn advertise(&self, address: SocketAddr) -> Result<()> {
        let text = std::fs::read_to_string(self.config())?;
        let (head, rest) = text.split_once("[link]\n").context("a section of the link")?;
        std::fs::write(self.config(), format!("{head}[link]\nadvertise = \"{address}\"\n{rest}"))
            .context("write box.toml")
    }

    /// Puts more lines behind the settings.
    pub(crate) fn add_settings(&self, lines: &str) -> Result<()> {
        let text = std::fs::read_to_string(self.config())?;
        std::fs::write(self.config(), format!("{text}{lines}\n")).context("write box.toml")
    }

    pub(crate) fn settings(&self, size: &str) -> String {
        let dir = self.dir.display();
        format!(
            "name = \"{}\"\nstate_dir = \"{dir}/state\"\n[pool]\ndir = \"{dir}/pool\"\nsize = \"{size}\"\n\
             [iscsi]\nlisten = [\"{}\"]\n[link]\nlisten = \"{}\"\n[api]\nsocket = \"{}\"\n",
            self.name,
            self.iscsi,
            self.link,
            self.socket().display()
        )
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("box.toml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// Folder of the rules by which the disks of a group fail, in a build for tests.
    pub(crate) fn faults(&self) -> PathBuf {
        self.dir.join("faults")
    }

    /// Says how the disks of a group fail from now on, or from the next start.
    pub(crate) fn set_faults(&self, group: &str, rules: &str) -> Result<()> {
        std::fs::create_dir_all(self.faults())?;
        let path = self.faults().join(group);
        // Replaced whole: a half-written rule is none.
        std::fs::write(path.with_extension("new"), rules)?;
        std::fs::rename(path.with_extension("new"), &path).context("replace the rules")
    }

    /// Starts the process and waits until it answers.
    pub(crate) async fn run(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("log")).context("open the log")?;
        let mut command = Command::new(&self.reprise);
        command.arg("run").arg("--config").arg(self.config());
        command.env("REPRISE_TEST_FAULTS", self.faults()).envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("start the box")?);
        let start = Instant::now();
        while self.get("/api/v1/status").await.is_err() {
            self.still_runs()?;
            ensure!(start.elapsed().as_secs() < HEAL_SECS_MAX, "{} does not answer", self.name);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Fails if the process has ended although nobody ended it.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        let child = self.child.as_mut().with_context(|| format!("{} was not started", self.name))?;
        if let Some(status) = child.try_wait()? {
            self.child = None;
            bail!("{} ended with {status}:\n{}", self.name, self.log_end());
        }
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        // The story of a crash stands above its backtrace.
        let last = lines.iter().rposition(|l| l.contains("panicked")).map_or(lines.len(), |at| lines.len().min(at + 3));
        lines[last.saturating_sub(12)..last].join("\n")
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.still_runs()?;
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and an end in order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.still_runs()?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let told = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().context("start kill")?;
        ensure!(told.success(), "kill -TERM failed");
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "{} ended with {status} after SIGTERM:\n{}", self.name, self.log_end());
                return Ok(());
            }
            if start.elapsed().as_secs() > 30 {
                child.kill()?;
                child.wait()?;
                bail!("{} runs on 30 s after SIGTERM:\n{}", self.name, self.log_end());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        call(&self.socket(), "GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Answer> {
        call(&self.socket(), "POST", path, Some(&body)).await
    }

    /// A command that must be done.
    pub(crate) async fn done(&self, path: &str, body: Value) -> Result<Value> {
        let answer = self.post(path, body.clone()).await?;
        ensure!(answer.status < 300, "{path} {body}: {}", answer.body);
        if let Some(id) = answer.body["job"]["id"].as_u64() {
            self.job(id).await.with_context(|| format!("{path} {body}"))?;
        }
        Ok(answer.body)
    }

    /// Waits until a job is done.
    pub(crate) async fn job(&self, id: u64) -> Result<()> {
        let start = Instant::now();
        loop {
            let job = self.get(&format!("/api/v1/jobs/show?id={id}")).await?.body;
            match job["state"]["kind"].as_str() {
                Some("done") => return Ok(()),
                Some("failed" | "cancelled") => bail!("job {id}: {}", job["state"]),
                _ => ensure!(start.elapsed().as_secs() < HEAL_SECS_MAX, "job {id} is not done: {job}"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Both steps of what destroys something; the answer of the one that refuses.
    pub(crate) async fn act(&self, action: Value) -> Result<Answer> {
        let preview = self.post("/api/v1/actions/preview", json!({ "action": action })).await?;
        let Some(token) = preview.body["token"].as_str() else { return Ok(preview) };
        let done = self.post("/api/v1/actions/confirm", json!({ "token": token })).await?;
        if let Some(id) = done.body["job"]["id"].as_u64() {
            self.job(id).await?;
        }
        Ok(done)
    }

    pub(crate) async fn status(&self) -> Result<Value> {
        let answer = self.get("/api/v1/status").await?;
        ensure!(answer.status == 200, "status: {}", answer.body);
        Ok(answer.body)
    }

    pub(crate) async fn group(&self, name: &str) -> Result<Value> {
        let status = self.status().await?;
        let groups = status["groups"].as_array().context("groups in the status")?;
        let group = groups.iter().find(|g| g["name"] == name).cloned();
        group.with_context(|| format!("{} has no group {name}", self.name))
    }

    /// The command line, with JSON.
    pub(crate) fn cli(&self, line: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.reprise);
        command.arg("--socket").arg(self.socket()).arg("--json").args(line).stdin(Stdio::null());
        command.output().context("start the command line")
    }

    pub(crate) async fn iqn(&self, group: &str) -> Result<String> {
        let group = self.group(group).await?;
        group["targets"][0]["iqn"].as_str().map(str::to_owned).context("the group has no target")
    }

    /// Homes by LUN.
    pub(crate) async fn homes(&self, group: &str) -> Result<Vec<PathBuf>> {
        let group = self.group(group).await?;
        let volumes = group["volumes"].as_array().context("volumes of the group")?;
        volumes.iter().map(|v| v["home"].as_str().map(PathBuf::from).context("home of a volume")).collect()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = (child.kill(), child.wait());
        }
    }
}

/// Fixed from here on, so that a box that is started again is where it was.
fn two_free_addresses() -> std::io::Result<(SocketAddr, SocketAddr)> {
    Ok((ports::free()?, ports::free()?))
}

/// The Seq of a position.
pub(crate) fn position(group: &Value, name: &str) -> Result<u64> {
    group["positions"][name].as_u64().with_context(|| format!("position {name} in {}", group["positions"]))
}

/// Pairs two boxes by code; `a` dials `address`, which leads to `b`.
pub(crate) async fn pair(a: &Appliance, b: &Appliance, address: SocketAddr) -> Result<()> {
    let offer = b.done("/api/v1/pairing/listen", json!({})).await?;
    let code = offer["code"].as_str().context("no code in the offer")?;
    let body = json!({ "address": address.to_string(), "code": code });
    let paired = a.done("/api/v1/pairing/dial", body).await?;
    ensure!(paired["state"]["kind"] == "paired", "the pairing ended as {paired}");
    Ok(())
}

/// A box renews what it tells of a group every 100 ms; twice that on a busy machine.
const STATUS_AGE_MAX: Duration = Duration::from_millis(200);

/// Waits until what a box tells of a group is younger than what was done before: in an older status everything was drained
/// before the last write.
pub(crate) async fn status_is_fresh() {
    tokio::time::sleep(STATUS_AGE_MAX).await;
}

/// Waits until `holds`; an error of the question itself only counts at the end.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let outcome = holds().await;
        if matches!(outcome, Ok(true)) {
            return Ok(start.elapsed());
        }
        if start.elapsed().as_secs() > HEAL_SECS_MAX {
            let why = outcome.err().unwrap_or_else(|| anyhow!("it was asked and was not so"));
            return Err(why.context(format!("not after {HEAL_SECS_MAX} s: {what}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Both homes hold all that the source has.
pub(crate) async fn drained(a: &Appliance, b: &Appliance, group: &str) -> Result<Duration> {
    status_is_fresh().await;
    until("everything is at both homes", async || {
        let (here, there) = (a.group(group).await?, b.group(group).await?);
        let end = position(&here, "written")?;
        let all = |g: &Value, names: &[&str]| names.iter().all(|n| position(g, n).is_ok_and(|p| p == end));
        let good = all(&here, &["durable", "peer_durable", "applied"]) && all(&there, &["durable", "applied"]);
        if good { Ok(true) } else { Err(anyhow!("{} and {}", here["positions"], there["positions"])) }
    })
    .await
}

/// Lines of a log that say ERROR: someone would have to act, and no test makes anything that bad.
pub(crate) fn no_errors_logged(boxes: &[&Appliance], but: &[&str]) -> Result<()> {
    for one in boxes {
        let log = one.log();
        let bad = log.lines().find(|l| l.contains(" ERROR ") && !but.iter().any(|b| l.contains(b)));
        if let Some(line) = bad {
            bail!("{} logged: {line}", one.name);
        }
    }
    Ok(())
}
