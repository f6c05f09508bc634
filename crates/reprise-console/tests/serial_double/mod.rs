//! A box that exists in memory only: what the console asks of it is written down, and what it is told it tells again.
#![allow(unreachable_pub)]
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use reprise_api::server::{self, Consequences};
use reprise_api::*;
use tokio::sync::watch;

/// What the box is like.
pub struct World {
    pub calls: Vec<String>,
    pub system: SystemStatus,
    pub notify: NotifySettings,
    pub pair_looks: u32,
    pub status: Status,
    /// What sets the first password, while there is none.
    pub code: Option<String>,
}

/// The box.
pub struct Double(Mutex<World>);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The serial number of the foreign disk.
pub const FOREIGN_SERIAL: &str = "WD-WX31A0";
/// The code that pairs.
pub const CODE: &str = "4F7-K2M-9TX";

pub fn system() -> SystemStatus {
    let disk = |path: &str, serial: &str, gib: u64, usage| DiskStatus {
        path: path.into(),
        serial: serial.into(),
        model: "Acme Disk".into(),
        size_bytes: gib << 30,
        usage,
    };
    let card = |name: &str, carrier, addresses: &[&str]| InterfaceStatus {
        name: name.into(),
        mac: "52:54:00:00:00:01".into(),
        carrier,
        speed_mbit: carrier.then_some(1000),
        addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        gateways: Vec::new(),
    };
    SystemStatus {
        name: name("lyon"),
        uptime_secs: 4000,
        memory_bytes_total: 4 << 30,
        memory_bytes_available: 3 << 30,
        firmware: FirmwareStatus {
            version: "0.1.0".into(),
            slot: Slot::A,
            confirmed: true,
            fell_back: false,
            watchdog: Some("iTCO_wdt".into()),
            secure_boot: true,
        },
        clock: ClockStatus {
            unix_ms: 1_790_003_600_000,
            state: ClockState::Synchronized { server: "192.0.2.1".into(), offset_us: 350 },
            servers: vec!["192.0.2.1".into()],
        },
        network: NetworkStatus {
            interfaces: vec![
                card("eth0", true, &["192.0.2.7/24", "fe80::5054:ff:fe00:1/64"]),
                card("eth1", true, &["198.51.100.7/24"]),
                card("eth2", false, &[]),
            ],
            settings: NetworkSettings {
                interfaces: vec![InterfaceSettings {
                    name: "eth1".into(),
                    kind: InterfaceKind::Ethernet,
                    ipv4: AddressMethod::Static { addresses: vec!["198.51.100.7/24".into()], gateway: None },
                    ipv6: AddressMethod::Off,
                    mtu: None,
                }],
                nameservers: Vec::new(),
            },
            nameservers: vec!["192.0.2.1".parse().unwrap()],
            reverts_in_secs: None,
        },
        disks: vec![
            disk("/dev/sda", "BOOT1", 64, DiskUsage::Boot { free_bytes: 63 << 30, pool: false }),
            disk("/dev/sdb", "POOL1", 200, DiskUsage::Pool),
            disk("/dev/sdc", "BLANK1", 100, DiskUsage::Blank),
            disk("/dev/sdd", FOREIGN_SERIAL, 50, DiskUsage::Foreign { what: "ext4".into() }),
            disk("/dev/sde", "BAD1", 50, DiskUsage::Failed { reason: "it cannot be read".into() }),
        ],
        pool: PoolPlace::On { path: "/dev/sdb".into(), serial: "POOL1".into() },
        certificate_fingerprint: Some("00112233445566778899aabbccddeeff".repeat(2)),
        config: ConfigState::Good,
        processes: vec![ProcessStatus {
            name: "daemon".into(),
            running: true,
            restarts: 1,
            last_exit: Some("signal 9".into()),
        }],
    }
}

fn status() -> Status {
    let mut status: Status =
        serde_json::from_str(include_str!("../../../reprise-api/tests/golden/status.json")).unwrap();
    let mut alone = status.groups[1].clone();
    alone.name = name("files");
    alone.link = None;
    alone.copy = None;
    alone.state = GroupState::Alone;
    alone.volumes.clear();
    alone.targets.clear();
    status.groups.push(alone);
    status
}

impl Double {
    pub fn new() -> Self {
        let notify = NotifySettings {
            webhooks: vec![Webhook { url: "https://hooks.example/a".into() }],
            mail: Some(MailSettings {
                server: "mail.example".into(),
                port: None,
                security: MailSecurity::Tls,
                user: Some("box".into()),
                password: None,
                from: "box@example.com".into(),
                to: vec!["admin@example.com".into()],
            }),
        };
        Self(Mutex::new(World {
            calls: Vec::new(),
            system: system(),
            notify,
            pair_looks: 0,
            status: status(),
            code: None,
        }))
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.world().calls)
    }

    fn note(&self, text: String) {
        self.world().calls.push(text);
    }

    fn volume(&self, name: &Name) -> Result<VolumeStatus, ApiError> {
        let volumes: Vec<VolumeStatus> = self.world().status.groups.iter().flat_map(|g| g.volumes.clone()).collect();
        volumes.into_iter().find(|v| v.name == *name).ok_or_else(|| ApiError::not_found("volume", name))
    }

    fn admin(&self) -> AdminStatus {
        AdminStatus { password_set: self.world().code.is_none(), generation: "1".into() }
    }

    fn job(&self) -> Job {
        self.world().status.jobs[0].clone()
    }
}

fn unused<T>() -> Result<T, ApiError> {
    Err(ApiError::new(ErrorCode::NotSupported, "the console does not ask for this", "look why it does"))
}

fn consequences(action: &Action) -> Consequences {
    Consequences {
        summary: format!("This will {}.", action.subject()),
        losses: vec!["50 GiB of data.".into(), "What a peer \u{1b}[2Jsaid.".into()],
        basis: String::new(),
    }
}

impl Appliance for Double {
    async fn authenticate(&self, _: &str) -> Option<(String, Rights)> {
        None
    }
    async fn reset_describe(&self, level: ResetLevel) -> Result<Consequences, ApiError> {
        Ok(consequences(&Action::SystemReset { level }))
    }
    async fn reset(&self, level: ResetLevel) -> Result<(), ApiError> {
        self.note(Action::SystemReset { level }.subject());
        Ok(())
    }
    async fn system_show(&self, _: Nothing) -> Result<SystemStatus, ApiError> {
        Ok(self.world().system.clone())
    }
    async fn system_network_set(&self, r: NetworkSettings) -> Result<Done, ApiError> {
        let text = serde_json::to_string(&r).unwrap();
        self.note(format!("network {text}"));
        let mut world = self.world();
        world.system.network.settings = r;
        world.system.network.reverts_in_secs = Some(NETWORK_KEEP_SECS);
        Ok(Done {})
    }
    async fn system_network_keep(&self, _: Nothing) -> Result<Done, ApiError> {
        self.note("keep".into());
        self.world().system.network.reverts_in_secs = None;
        Ok(Done {})
    }
    async fn system_time_set(&self, r: TimeSet) -> Result<Done, ApiError> {
        self.note(format!("time {} {:?}", r.servers.join(","), r.unix_ms));
        Ok(Done {})
    }
    async fn system_name_set(&self, r: NameSet) -> Result<Done, ApiError> {
        self.note(format!("name {}", r.name));
        Ok(Done {})
    }
    async fn system_disk_take(&self, r: DiskTake) -> Result<Done, ApiError> {
        self.note(format!("take {} {:?}", r.path, r.serial));
        Ok(Done {})
    }
    async fn system_logs(&self, r: LogQuery) -> Result<LogLines, ApiError> {
        let long = "x".repeat(200);
        let lines = (1..=60).map(|n| format!("{:?} line {n} \u{1b}[31m {long}", r.source));
        Ok(LogLines { lines: lines.collect() })
    }
    async fn system_support(&self, _: Nothing) -> Result<SupportBundle, ApiError> {
        self.note("support".into());
        Ok(SupportBundle { file_name: "lyon.tar.gz".into(), content_base64: "QUJD".repeat(2000) })
    }
    async fn system_power(&self, r: Power) -> Result<Done, ApiError> {
        self.note(format!("power {:?}", r.action));
        Ok(Done {})
    }
    async fn admin_status(&self, _: Nothing) -> Result<AdminStatus, ApiError> {
        Ok(self.admin())
    }
    async fn admin_password(&self, _: PasswordSet) -> Result<AdminStatus, ApiError> {
        unused()
    }
    async fn admin_password_reset(&self, r: PasswordReset) -> Result<AdminStatus, ApiError> {
        self.note(format!("password {}", r.new));
        Ok(self.admin())
    }
    async fn admin_code(&self, _: Nothing) -> Result<AdminCode, ApiError> {
        Ok(AdminCode { code: self.world().code.clone() })
    }
    async fn admin_sessions_end(&self, _: Nothing) -> Result<AdminStatus, ApiError> {
        self.note("end sessions".into());
        Ok(self.admin())
    }
    async fn admin_login(&self, _: Login) -> Result<AdminStatus, ApiError> {
        unused()
    }
    async fn notify_show(&self, _: Nothing) -> Result<NotifySettings, ApiError> {
        Ok(self.world().notify.clone())
    }
    async fn notify_set(&self, r: NotifySettings) -> Result<NotifySettings, ApiError> {
        self.note(format!("notify {}", serde_json::to_string(&r).unwrap()));
        self.world().notify = r.clone();
        Ok(r)
    }
    async fn notify_test(&self, _: Nothing) -> Result<NotifyTest, ApiError> {
        self.note("notify test".into());
        let bad = NotifyResult { to: "mail.example".into(), error: Some("it refused".into()) };
        Ok(NotifyTest { results: vec![NotifyResult { to: "https://hooks.example/a".into(), error: None }, bad] })
    }
}

impl BoxService for Double {
    type Machine = Self;
    fn machine(&self) -> &Self {
        self
    }
    async fn action_describe(&self, action: &Action) -> Result<Consequences, ApiError> {
        Ok(consequences(action))
    }
    async fn action_execute(&self, action: &Action) -> Result<ActionDone, ApiError> {
        self.note(action.subject());
        let job = matches!(action, Action::VolumeErase { .. }).then(|| self.job());
        Ok(ActionDone { action: action.clone(), job })
    }
    async fn status(&self, _: Nothing) -> Result<Status, ApiError> {
        Ok(self.world().status.clone())
    }
    async fn group_list(&self, _: Nothing) -> Result<GroupList, ApiError> {
        unused()
    }
    async fn group_create(&self, _: GroupCreate) -> Result<GroupStatus, ApiError> {
        unused()
    }
    async fn group_unfence(&self, _: ByName) -> Result<JobStarted, ApiError> {
        unused()
    }
    async fn group_reattach(&self, _: ByName) -> Result<Done, ApiError> {
        unused()
    }
    async fn volume_list(&self, _: VolumeQuery) -> Result<VolumeList, ApiError> {
        unused()
    }
    async fn volume_show(&self, _: ByName) -> Result<VolumeStatus, ApiError> {
        unused()
    }
    async fn volume_create(&self, r: VolumeCreate) -> Result<VolumeStarted, ApiError> {
        let mirror = r.mirror.map(|peer| format!(" to {peer}")).unwrap_or_default();
        self.note(format!("create {} {} {} thin {} {}{mirror}", r.name, r.group, r.size, r.thin, r.block_size));
        let volume = VolumeStatus { name: r.name, group: r.group, ..self.volume(&name("pg-data"))? };
        Ok(VolumeStarted { volume, job: Some(self.job()) })
    }
    async fn volume_adopt(&self, r: VolumeAdopt) -> Result<VolumeStarted, ApiError> {
        self.note(format!("adopt {} {} {}", r.name, r.group, r.path.display()));
        Ok(VolumeStarted { volume: self.volume(&name("pg-data"))?, job: None })
    }
    async fn volume_resize(&self, r: VolumeResize) -> Result<VolumeStarted, ApiError> {
        self.note(format!("resize {} {}", r.name, r.size));
        Ok(VolumeStarted { volume: self.volume(&r.name)?, job: None })
    }
    async fn volume_set(&self, r: VolumeSet) -> Result<VolumeStatus, ApiError> {
        self.note(format!("set {} read-only {}", r.name, r.read_only));
        self.volume(&r.name)
    }
    async fn peer_set(&self, r: PeerSet) -> Result<PeerStatus, ApiError> {
        self.note(format!("peer {} at {}", r.peer, r.address));
        let found = self.status(Nothing {}).await?.peers.into_iter().find(|p| p.name == r.peer);
        let peer = found.ok_or_else(|| ApiError::not_found("peer", &r.peer))?;
        Ok(PeerStatus { address: Some(r.address), ..peer })
    }
    async fn initiator_list(&self, _: Nothing) -> Result<InitiatorList, ApiError> {
        Ok(InitiatorList { initiators: vec![initiator("iqn.2026-01.com.example:host")], others: false })
    }
    async fn initiator_add(&self, r: InitiatorAdd) -> Result<InitiatorChanged, ApiError> {
        self.note(format!("initiator {}", serde_json::to_string(&r).unwrap()));
        Ok(InitiatorChanged { initiator: initiator(r.name.as_str()), warnings: vec!["the secret is long".into()] })
    }
    async fn initiator_set(&self, _: InitiatorSet) -> Result<InitiatorChanged, ApiError> {
        unused()
    }
    async fn initiator_remove(&self, r: InitiatorRef) -> Result<Done, ApiError> {
        self.note(format!("forget {}", r.name));
        Ok(Done {})
    }
    async fn peer_list(&self, _: Nothing) -> Result<PeerList, ApiError> {
        unused()
    }
    async fn pair_status(&self, _: Nothing) -> Result<PairStatus, ApiError> {
        let mut world = self.world();
        world.pair_looks += 1;
        let peer = world.status.peers[0].clone();
        let state = match world.pair_looks {
            1 => PairState::Exchanging { address: "192.0.2.8:3261".into() },
            _ => PairState::Paired { peer_id: peer.id, peer: peer.name, address: "192.0.2.8:3261".into() },
        };
        Ok(PairStatus { state })
    }
    async fn pair_listen(&self, r: PairListen) -> Result<PairOffer, ApiError> {
        self.note("listen".into());
        self.world().pair_looks = 0;
        let addresses = vec!["192.0.2.7:3261".into(), "[2001:db8::7]:3261".into()];
        Ok(PairOffer { code: CODE.into(), addresses, expires_in_secs: r.valid_secs })
    }
    async fn pair_dial(&self, r: PairDial) -> Result<PairStatus, ApiError> {
        self.note(format!("dial {} {}", r.address, r.code));
        if r.code != CODE {
            let error = ApiError::new(ErrorCode::PairingFailed, "wrong code", "Look again.");
            return Ok(PairStatus { state: PairState::Failed { error } });
        }
        let peer = self.world().status.peers[0].clone();
        Ok(PairStatus { state: PairState::Paired { peer_id: peer.id, peer: peer.name, address: r.address } })
    }
    async fn peer_share(&self, r: PeerShareSet) -> Result<PeerStatus, ApiError> {
        self.note(format!("peer {} may have {}", r.peer, r.share));
        let peer = self.world().status.peers[0].clone();
        Ok(PeerStatus { share: r.share, ..peer })
    }
    async fn pair_cancel(&self, _: Nothing) -> Result<PairStatus, ApiError> {
        self.note("cancel".into());
        Ok(PairStatus { state: PairState::Cancelled })
    }
    async fn mirror_add(&self, r: MirrorOf) -> Result<MirrorStarted, ApiError> {
        self.note(format!("mirror {}", r.subject()));
        Ok(MirrorStarted { job: Some(self.job()), warnings: vec!["turin is slower".into()] })
    }
    async fn mirror_pause(&self, r: MirrorOf) -> Result<Done, ApiError> {
        self.note(format!("pause {}", r.subject()));
        Ok(Done {})
    }
    async fn mirror_resume(&self, r: MirrorOf) -> Result<Done, ApiError> {
        self.note(format!("resume {}", r.subject()));
        Ok(Done {})
    }
    async fn verify_start(&self, _: VerifyStart) -> Result<JobStarted, ApiError> {
        unused()
    }
    async fn verify_report(&self, _: ById) -> Result<VerifyReport, ApiError> {
        unused()
    }
    async fn event_list(&self, _: EventQuery) -> Result<EventList, ApiError> {
        let event = |id| Event {
            id,
            at_unix_ms: 1_790_000_000_000 + id * 1000,
            code: "link-up".into(),
            severity: Severity::Info,
            subject: "peer turin".into(),
            text: format!("The link is up for the time {id}."),
            what_to_do: String::new(),
        };
        Ok(EventList { events: (1..=50).map(event).collect(), next_after: 50 })
    }
    async fn alert_list(&self, _: AlertQuery) -> Result<AlertList, ApiError> {
        unused()
    }
    async fn alert_ack(&self, r: ById) -> Result<Alert, ApiError> {
        self.note(format!("ack {}", r.id));
        Ok(self.world().status.alerts[0].clone())
    }
    async fn job_list(&self, _: Nothing) -> Result<JobList, ApiError> {
        unused()
    }
    async fn job_show(&self, _: ById) -> Result<Job, ApiError> {
        unused()
    }
    async fn job_cancel(&self, _: ById) -> Result<Job, ApiError> {
        unused()
    }
    async fn token_list(&self, _: Nothing) -> Result<TokenList, ApiError> {
        unused()
    }
    async fn token_create(&self, _: TokenCreate) -> Result<TokenCreated, ApiError> {
        unused()
    }
    async fn token_revoke(&self, _: TokenRef) -> Result<Done, ApiError> {
        unused()
    }
    async fn inspect(&self, _: InspectQuery) -> Result<JournalPage, ApiError> {
        unused()
    }
}

fn initiator(name: &str) -> InitiatorStatus {
    InitiatorStatus {
        name: name.parse().unwrap(),
        from_settings: false,
        groups: Vec::new(),
        addresses: Vec::new(),
        chap_user: Some("host".into()),
        mutual_user: None,
        iops: None,
        bytes_per_sec: None,
        sessions: 2,
    }
}

/// A box that answers at a real socket.
pub struct Served<S> {
    pub service: Arc<S>,
    pub socket: PathBuf,
    _stop: watch::Sender<bool>,
    _runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

pub fn serve<S: BoxService>(service: S) -> Served<S> {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let service = Arc::new(service);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stop, stopped) = watch::channel(false);
    let listener = {
        let _inside = runtime.enter();
        server::bind_unix(&socket).unwrap()
    };
    runtime.spawn(server::serve_unix(listener, service.clone(), stopped));
    Served { service, socket, _stop: stop, _runtime: runtime, _dir: dir }
}
