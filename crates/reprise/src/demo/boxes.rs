//! The two boxes: settings, processes, pairing.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reprise_api::settings::{
    ApiSettings, IscsiSettings, LimitSettings, LinkSettings, LogSettings, MetricsSettings, PoolSettings, SystemSettings,
};
use reprise_api::*;

use super::Reach;
use super::relay::Relay;

/// Names of the two boxes and of their directories.
pub(crate) const SOURCE: &str = "source";
pub(crate) const MIRROR: &str = "mirror";
/// The one group and its volume.
const GROUP: &str = "main";
const VOLUME: &str = "disk";
/// A box that does not answer after this time has failed: a start takes well below a second.
const START_SECS_MAX: u64 = 30;
/// A box that has not stopped this long after SIGTERM is killed.
const STOP_SECS_MAX: u64 = 20;
/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the pair shall be.
pub(crate) struct Wanted {
    /// Size of the volume, for which the pools are made.
    pub(crate) volume: ByteSize,
    /// A relay stands in front of the mirror's link port.
    pub(crate) relayed: bool,
}

/// One box and its process.
pub(crate) struct Appliance {
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    client: Client,
}

/// Ports that are free at this moment: fixed in the settings, so that a box that is started again is where it was.
struct Ports {
    iscsi: SocketAddr,
    link: SocketAddr,
    /// What the other box is told in the place of `link`.
    advertise: Option<SocketAddr>,
    metrics: SocketAddr,
}

impl Ports {
    fn free() -> std::io::Result<Self> {
        // All three are held until all are known, so that they differ.
        let (iscsi, link, metrics) = (Self::any()?, Self::any()?, Self::any()?);
        let link = link.local_addr()?;
        Ok(Self { iscsi: iscsi.local_addr()?, link, advertise: None, metrics: metrics.local_addr()? })
    }

    /// Below the ports that Linux gives to whoever dials (32768 on), which may be taken when the box is started again. Another
    /// one at each call: a box that is to listen on the one before may not do so yet.
    fn any() -> std::io::Result<TcpListener> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let own = std::process::id().wrapping_mul(97) % 12_000;
        let mut ports = (0..12_000).map(|_| 20_000 + ((own + CALLS.fetch_add(1, Ordering::Relaxed)) % 12_000) as u16);
        let free = ports.find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
        free.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::AddrInUse, "no port is free"))
    }
}

impl Appliance {
    /// Writes the settings and starts the box.
    async fn start(dir: &Path, name: &str, ports: &Ports, wanted: &Wanted) -> anyhow::Result<Self> {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("make directory {}", dir.display()))?;
        let volume = wanted.volume.bytes();
        // Each half holds the volume once, with room for the segments that are kept back.
        let half = volume.saturating_add(volume / 4).saturating_add(1 << 30);
        let settings = Settings {
            name: name.parse()?,
            state_dir: Some(dir.join("state")),
            pool: PoolSettings {
                dir: Some(dir.join("pool")),
                size: Some(ByteSize::from_bytes(half.saturating_mul(2))),
                ..PoolSettings::default()
            },
            iscsi: IscsiSettings { listen: vec![ports.iscsi], ..IscsiSettings::default() },
            link: LinkSettings { listen: ports.link, advertise: ports.advertise.map(|a| a.to_string()) },
            api: ApiSettings { socket: dir.join("api.sock"), ..ApiSettings::default() },
            metrics: MetricsSettings { listen: Some(ports.metrics), open: false },
            log: LogSettings::default(),
            limits: LimitSettings::default(),
            system: SystemSettings::default(),
        };
        settings.check()?;
        let config = dir.join("box.toml");
        std::fs::write(&config, settings.to_toml()?).with_context(|| format!("write {}", config.display()))?;
        let client = Client::new(Target::Socket(settings.api.socket.clone()));
        let mut this = Self { config, log: dir.join("log"), child: None, client };
        this.run().await?;
        Ok(this)
    }

    /// Starts the process and waits until the box answers.
    pub(crate) async fn run(&mut self) -> anyhow::Result<()> {
        let log: File = (OpenOptions::new().create(true).append(true).open(&self.log))
            .with_context(|| format!("open {}", self.log.display()))?;
        let binary = std::env::current_exe().context("find this binary")?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(&self.config);
        // A group of its own: Ctrl-C is for the demo, which then stops the boxes in order.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        self.child = Some(command.spawn().context("start a box")?);
        let start = Instant::now();
        while self.client.status(&Nothing {}).await.is_err() {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().transpose()) {
                bail!("the box ended with {}:\n{}", status?, self.last_words());
            }
            if start.elapsed().as_secs() > START_SECS_MAX {
                bail!("the box does not answer:\n{}", self.last_words());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    /// SIGKILL: no time for anything.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(|c| i32::try_from(c.id()).ok()) {
            // A box that is gone already needs no signal.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits for the end of a box that was told to stop.
    fn wait_for_end(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let start = Instant::now();
        while start.elapsed().as_secs() < STOP_SECS_MAX {
            if let Some(status) = child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the box ended with {status}:\n{}", self.last_words());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        child.kill()?;
        child.wait()?;
        bail!("the box had not stopped {STOP_SECS_MAX} s after SIGTERM and was killed");
    }

    /// Takes notice of a box that somebody else has ended, so that no dead process is left standing.
    fn notice_end(&mut self) {
        if let Some(child) = &mut self.child
            && matches!(child.try_wait(), Ok(Some(_)))
        {
            self.child = None;
        }
    }

    pub(crate) async fn status(&self) -> anyhow::Result<Status> {
        Ok(self.client.status(&Nothing {}).await?)
    }

    /// The group, once it is there.
    pub(crate) async fn group(&self) -> anyhow::Result<GroupStatus> {
        let status = self.status().await?;
        status.groups.into_iter().find(|g| g.name.as_str() == GROUP).ok_or_else(|| anyhow!("the group is missing"))
    }

    async fn wait_for(&self, job: Option<Job>, mut tell: impl FnMut(&Job)) -> anyhow::Result<()> {
        let Some(mut job) = job else { return Ok(()) };
        while !job.state.is_final() {
            tokio::time::sleep(LOOK_EVERY).await;
            job = self.client.job_show(&ById { id: job.id }).await?;
            tell(&job);
        }
        match job.state {
            JobState::Failed { error } => Err(ClientError::Refused(error).into()),
            JobState::Cancelled => bail!("job {} was cancelled", job.id),
            _ => Ok(()),
        }
    }
}

/// A box that is dropped before it was told to stop, because its pair never came about, does not stay behind.
impl Drop for Appliance {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            errln!("kill a box: {error:#}");
        }
    }
}

/// The pair. Dropping it stops both boxes.
pub(crate) struct Pair {
    pub(crate) source: Appliance,
    pub(crate) mirror: Appliance,
    pub(crate) relay: Option<Relay>,
    /// Shown by the mirror and typed at the source.
    pub(crate) code: String,
}

impl Pair {
    /// Starts two boxes and pairs them by code.
    pub(crate) async fn start(dir: &Path, wanted: &Wanted) -> anyhow::Result<Self> {
        let (a, mut b) = (Ports::free()?, Ports::free()?);
        let relay = wanted.relayed.then(|| Relay::start(b.link)).transpose().context("start the relay")?;
        // Else the source would find the way past the relay, and nothing could be cut.
        b.advertise = relay.as_ref().map(Relay::address);
        let source = Appliance::start(dir, SOURCE, &a, wanted).await.context("start the source")?;
        let mirror = Appliance::start(dir, MIRROR, &b, wanted).await.context("start the mirror")?;
        let mut pair = Self { source, mirror, relay, code: String::new() };
        let offer = pair.mirror.client.pair_listen(&PairListen::default()).await?;
        let address = pair.relay.as_ref().map_or(b.link, Relay::address).to_string();
        pair.code.clone_from(&offer.code);
        let paired = pair.source.client.pair_dial(&PairDial { address, code: offer.code }).await?;
        match paired.state {
            PairState::Paired { .. } => Ok(pair),
            PairState::Failed { error } => Err(ClientError::Refused(error).into()),
            other => bail!("the pairing ended as {other:?}"),
        }
    }

    /// Makes the volume and its mirror, and waits for the first copy. `tell` hears of its progress.
    pub(crate) async fn make_mirrored_volume(&mut self, size: ByteSize, tell: impl FnMut(&Job)) -> anyhow::Result<()> {
        let group: Name = GROUP.parse()?;
        let create = VolumeCreate {
            name: VOLUME.parse()?,
            group: group.clone(),
            size,
            thin: false,
            local_only: false,
            block_size: BlockSize::default(),
            read_only: false,
            mirror: None,
        };
        let made = self.source.client.volume_create(&create).await.context("make the volume")?;
        self.source.wait_for(made.job, |_| {}).await.context("make the volume")?;
        let request = MirrorOf { group, peer: MIRROR.parse()? };
        let begun = self.source.client.mirror_add(&request).await.context("add the mirror")?;
        self.source.wait_for(begun.job, tell).await.context("copy the volume for the first time")?;
        self.until("the mirror follows", 30, |source, _| matches!(source.state, GroupState::Ordered)).await
    }

    /// Waits until both boxes show what is hoped for.
    pub(crate) async fn until(
        &self,
        what: &str,
        secs: u64,
        mut holds: impl FnMut(&GroupStatus, &GroupStatus) -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let (source, mirror) = (self.source.group().await, self.mirror.group().await);
            if let (Ok(source), Ok(mirror)) = (&source, &mirror)
                && holds(source, mirror)
            {
                return Ok(());
            }
            if start.elapsed().as_secs() >= secs {
                let show = |g: &anyhow::Result<GroupStatus>| match g {
                    Ok(g) => format!("{} {:?}", g.state.kind(), g.positions),
                    Err(error) => format!("{error:#}"),
                };
                bail!("{what}: not so after {secs} s; source: {}; mirror: {}", show(&source), show(&mirror));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Portal, name and LUN at which the source serves the volume.
    #[cfg(feature = "torture")]
    pub(crate) async fn target_of_source(&self) -> anyhow::Result<(SocketAddr, String, u16)> {
        let group = self.source.group().await?;
        let target = group.targets.first().ok_or_else(|| anyhow!("the source has no iSCSI target"))?;
        let portal = target.portals.first().ok_or_else(|| anyhow!("the source has no iSCSI portal"))?;
        let lun = group.volumes.first().ok_or_else(|| anyhow!("the group has no volume"))?.lun;
        Ok((portal.parse().with_context(|| format!("{portal} is no address"))?, target.iqn.clone(), lun))
    }

    pub(crate) async fn reach_source(&self) -> anyhow::Result<Reach> {
        let iqn = self.iqn().await?;
        self.source.reach(&iqn).await
    }

    pub(crate) async fn reach_mirror(&self) -> anyhow::Result<Reach> {
        let iqn = self.iqn().await?;
        self.mirror.reach(&iqn).await
    }

    async fn iqn(&self) -> anyhow::Result<String> {
        let group = self.source.group().await?;
        group.targets.into_iter().next().map(|t| t.iqn).ok_or_else(|| anyhow!("the source has no iSCSI target"))
    }

    /// Keeps the boxes for ever. One that somebody kills stays dead: whoever killed it starts it again.
    pub(crate) async fn watch_over(&mut self) -> anyhow::Result<()> {
        loop {
            self.source.notice_end();
            self.mirror.notice_end();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Stops both boxes in order; it is an error if one does not stop by itself.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.source.signal(Signal::SIGTERM);
        self.mirror.signal(Signal::SIGTERM);
        let (source, mirror) = (self.source.wait_for_end(), self.mirror.wait_for_end());
        source.context("stop the source")?;
        mirror.context("stop the mirror")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            errln!("{error:#}");
        }
    }
}

impl Appliance {
    async fn reach(&self, iqn: &str) -> anyhow::Result<Reach> {
        let status = self.status().await?;
        let group = self.group().await?;
        let volume = group.volumes.first().ok_or_else(|| anyhow!("the group has no volume"))?;
        let endpoints = status.this_box.endpoints;
        let portal = endpoints.iscsi.first().ok_or_else(|| anyhow!("the box has no iSCSI portal"))?;
        Ok(Reach {
            iscsi: format!("iscsi://{portal}/{iqn}/{}", volume.lun),
            home: group.volumes.iter().map(|v| v.home.clone()).collect(),
            socket: endpoints.socket.context("the box has no local socket")?,
            metrics: endpoints.metrics.context("the box shows no metrics")?,
            link: endpoints.link.context("the box has no link port")?,
            pid: self.child.as_ref().map(Child::id).context("the box does not run")?,
            config: self.config.display().to_string(),
        })
    }
}
