//! A service with canned answers, for tests of what lies between it and a caller: server, client and command line.
#![allow(unreachable_pub)]
#![allow(dead_code)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use reprise_api::server::Consequences;
use reprise_api::*;

/// The canned status.
pub fn sample() -> Status {
    serde_json::from_str(include_str!("../golden/status.json")).expect("sample status")
}

/// Answers from [`sample`] and writes down what it was asked to do.
#[derive(Debug, Default)]
pub struct Scripted {
    /// What was asked, in order.
    pub calls: Mutex<Vec<String>>,
    /// Part of the basis of every action; a test changes it to make previews stale.
    pub world: AtomicU64,
    /// Looks at the pairing and at jobs so far: they make progress by being looked at.
    pub looks: AtomicU64,
    /// Seconds `group_create` takes.
    pub slow_secs: AtomicU64,
    /// Listeners that were full of strangers, and who held the most places.
    pub full: Mutex<Vec<(String, std::net::IpAddr)>>,
}

/// The token that may do everything.
pub const ADMIN_TOKEN: &str = "rpr_admin";
/// The token that may look.
pub const READ_TOKEN: &str = "rpr_read";

impl Scripted {
    fn note(&self, text: String) {
        self.calls.lock().expect("calls").push(text);
    }

    pub fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().expect("calls"))
    }

    fn job(&self, state: JobState) -> Job {
        Job { state, ..sample().jobs.remove(0) }
    }
}

fn volume() -> VolumeStatus {
    sample().groups.remove(1).volumes.remove(0)
}

fn event(id: u64) -> Event {
    Event {
        id,
        at_unix_ms: 1_790_000_000_000,
        code: "link-up".into(),
        severity: Severity::Info,
        subject: "peer turin".into(),
        text: "The link is up.".into(),
        what_to_do: String::new(),
    }
}

fn bare() -> ApiError {
    ApiError::new(ErrorCode::NotSupported, "no appliance", "use the image")
}

fn admin() -> AdminStatus {
    AdminStatus { password_set: true, generation: "1".into() }
}

impl Appliance for Scripted {
    async fn authenticate(&self, token: &str) -> Option<(String, Rights)> {
        match token {
            ADMIN_TOKEN => Some(("a".into(), Rights::Admin)),
            READ_TOKEN => Some(("r".into(), Rights::ReadOnly)),
            _ => None,
        }
    }

    async fn reset_describe(&self, _: ResetLevel) -> Result<Consequences, ApiError> {
        Err(bare())
    }

    async fn reset(&self, _: ResetLevel) -> Result<(), ApiError> {
        Err(bare())
    }

    async fn system_show(&self, _: Nothing) -> Result<SystemStatus, ApiError> {
        Err(bare())
    }

    async fn system_network_set(&self, r: NetworkSettings) -> Result<Done, ApiError> {
        self.note(format!("network {}", r.interfaces.len()));
        Ok(Done {})
    }

    async fn system_network_keep(&self, _: Nothing) -> Result<Done, ApiError> {
        Ok(Done {})
    }

    async fn system_time_set(&self, _: TimeSet) -> Result<Done, ApiError> {
        Ok(Done {})
    }

    async fn system_name_set(&self, _: NameSet) -> Result<Done, ApiError> {
        Ok(Done {})
    }

    async fn system_disk_take(&self, r: DiskTake) -> Result<Done, ApiError> {
        self.note(format!("take {}", r.path));
        Ok(Done {})
    }

    async fn system_logs(&self, r: LogQuery) -> Result<LogLines, ApiError> {
        Ok(LogLines { lines: vec![format!("{:?} {:?}", r.source, r.lines)] })
    }

    async fn system_support(&self, _: Nothing) -> Result<SupportBundle, ApiError> {
        Err(bare())
    }

    async fn system_power(&self, r: Power) -> Result<Done, ApiError> {
        self.note(format!("{:?}", r.action));
        Ok(Done {})
    }

    async fn admin_status(&self, _: Nothing) -> Result<AdminStatus, ApiError> {
        Ok(admin())
    }

    async fn admin_password(&self, _: PasswordSet) -> Result<AdminStatus, ApiError> {
        Ok(admin())
    }

    async fn admin_password_reset(&self, _: PasswordReset) -> Result<AdminStatus, ApiError> {
        Ok(admin())
    }

    async fn admin_code(&self, _: Nothing) -> Result<AdminCode, ApiError> {
        Ok(AdminCode { code: Some("4F7-K2M-9TX".into()) })
    }

    async fn admin_sessions_end(&self, _: Nothing) -> Result<AdminStatus, ApiError> {
        Ok(admin())
    }

    async fn admin_login(&self, r: Login) -> Result<AdminStatus, ApiError> {
        self.note(format!("login from {}", r.from));
        Ok(admin())
    }

    async fn notify_show(&self, _: Nothing) -> Result<NotifySettings, ApiError> {
        Ok(NotifySettings::default())
    }

    async fn notify_set(&self, r: NotifySettings) -> Result<NotifySettings, ApiError> {
        Ok(r)
    }

    async fn notify_test(&self, _: Nothing) -> Result<NotifyTest, ApiError> {
        Ok(NotifyTest { results: Vec::new() })
    }
}

impl BoxService for Scripted {
    type Machine = Self;

    fn machine(&self) -> &Self {
        self
    }

    fn strangers_full(&self, listener: &str, full: &reprise_api::strangers::Full) {
        self.full.lock().expect("full").push((listener.to_owned(), full.busiest));
    }

    async fn action_describe(&self, action: &Action) -> Result<Consequences, ApiError> {
        if let Action::VolumeErase { volume } = action
            && volume.as_str() == "gone"
        {
            return Err(ApiError::not_found("volume", volume));
        }
        Ok(Consequences {
            summary: format!("This will {}.", action.subject()),
            losses: vec!["50 GiB of data".into()],
            basis: self.world.load(Ordering::Relaxed).to_string(),
        })
    }

    async fn action_execute(&self, action: &Action) -> Result<ActionDone, ApiError> {
        self.note(action.subject());
        let job = matches!(action, Action::VolumeErase { .. }).then(|| self.job(JobState::Running));
        Ok(ActionDone { action: action.clone(), job })
    }

    async fn status(&self, _: Nothing) -> Result<Status, ApiError> {
        Ok(sample())
    }

    async fn group_list(&self, _: Nothing) -> Result<GroupList, ApiError> {
        Ok(GroupList { groups: sample().groups })
    }

    async fn group_create(&self, r: GroupCreate) -> Result<GroupStatus, ApiError> {
        tokio::time::sleep(std::time::Duration::from_secs(self.slow_secs.load(Ordering::Relaxed))).await;
        self.note(format!("create group {}", r.name));
        Ok(GroupStatus { name: r.name, ..sample().groups.remove(1) })
    }

    async fn volume_list(&self, r: VolumeQuery) -> Result<VolumeList, ApiError> {
        let volumes = sample().groups.into_iter().flat_map(|g| g.volumes);
        Ok(VolumeList { volumes: volumes.filter(|v| r.group.as_ref().is_none_or(|g| v.group == *g)).collect() })
    }

    async fn volume_show(&self, r: ByName) -> Result<VolumeStatus, ApiError> {
        let mut volumes = sample().groups.into_iter().flat_map(|g| g.volumes);
        volumes.find(|v| v.name == r.name).ok_or_else(|| ApiError::not_found("volume", &r.name))
    }

    async fn volume_create(&self, r: VolumeCreate) -> Result<VolumeStarted, ApiError> {
        self.note(format!("create {r:?}"));
        let volume = VolumeStatus { name: r.name, group: r.group, size_bytes: r.size.bytes(), ..volume() };
        Ok(VolumeStarted { volume, job: (!r.thin).then(|| self.job(JobState::Running)) })
    }

    async fn volume_resize(&self, r: VolumeResize) -> Result<VolumeStarted, ApiError> {
        self.note(format!("resize {} {}", r.name, r.size.bytes()));
        Ok(VolumeStarted { volume: VolumeStatus { name: r.name, ..volume() }, job: None })
    }

    async fn volume_set(&self, r: VolumeSet) -> Result<VolumeStatus, ApiError> {
        self.note(format!("set {} read-only {}", r.name, r.read_only));
        Ok(VolumeStatus { name: r.name, read_only: r.read_only, ..volume() })
    }

    async fn peer_set(&self, r: PeerSet) -> Result<PeerStatus, ApiError> {
        self.note(format!("peer {} at {}", r.peer, r.address));
        let found = sample().peers.into_iter().find(|p| p.name == r.peer);
        found.ok_or_else(|| ApiError::not_found("peer", &r.peer))
    }

    async fn volume_adopt(&self, r: VolumeAdopt) -> Result<VolumeStarted, ApiError> {
        self.note(format!("adopt {}", r.path.display()));
        Ok(VolumeStarted { volume: VolumeStatus { name: r.name, group: r.group, ..volume() }, job: None })
    }

    async fn peer_list(&self, _: Nothing) -> Result<PeerList, ApiError> {
        Ok(PeerList { peers: sample().peers })
    }

    async fn pair_status(&self, _: Nothing) -> Result<PairStatus, ApiError> {
        let peer = sample().peers.remove(0);
        let address = "127.0.0.1:3261".to_owned();
        let state = match self.looks.fetch_add(1, Ordering::Relaxed) {
            0 => PairState::Listening { expires_in_secs: 599 },
            1 => PairState::Exchanging { address },
            _ => PairState::Paired { peer_id: peer.id, peer: peer.name, address },
        };
        Ok(PairStatus { state })
    }

    async fn pair_listen(&self, r: PairListen) -> Result<PairOffer, ApiError> {
        self.note(format!("listen {}", r.valid_secs));
        let addresses = vec!["127.0.0.1:3261".into()];
        Ok(PairOffer { code: "4711-0815".into(), addresses, expires_in_secs: r.valid_secs })
    }

    async fn pair_dial(&self, r: PairDial) -> Result<PairStatus, ApiError> {
        self.note(format!("dial {}", r.address));
        if r.code != "4711-0815" {
            let error = ApiError::new(ErrorCode::PairingFailed, "the code is wrong", "ask for a fresh code");
            return Ok(PairStatus { state: PairState::Failed { error } });
        }
        let peer = sample().peers.remove(0);
        Ok(PairStatus { state: PairState::Paired { peer_id: peer.id, peer: peer.name, address: r.address } })
    }

    async fn peer_share(&self, r: PeerShareSet) -> Result<PeerStatus, ApiError> {
        self.note(format!("peer {} may have {}", r.peer, r.share));
        let found = sample().peers.into_iter().find(|p| p.name == r.peer);
        let peer = found.ok_or_else(|| ApiError::not_found("peer", &r.peer))?;
        Ok(PeerStatus { share: r.share, ..peer })
    }

    async fn pair_cancel(&self, _: Nothing) -> Result<PairStatus, ApiError> {
        Ok(PairStatus { state: PairState::Cancelled })
    }

    async fn mirror_add(&self, r: MirrorOf) -> Result<MirrorStarted, ApiError> {
        self.note(r.subject());
        Ok(MirrorStarted { job: Some(self.job(JobState::Running)), warnings: vec!["turin is slower".into()] })
    }

    async fn mirror_pause(&self, r: MirrorOf) -> Result<Done, ApiError> {
        self.note(format!("pause {}", r.subject()));
        Ok(Done {})
    }

    async fn verify_start(&self, r: VerifyStart) -> Result<JobStarted, ApiError> {
        Err(ApiError::not_found("group", r.group))
    }
    async fn verify_report(&self, r: ById) -> Result<VerifyReport, ApiError> {
        Err(ApiError::not_found("comparison of job", r.id))
    }
    async fn group_unfence(&self, r: ByName) -> Result<JobStarted, ApiError> {
        Err(ApiError::not_found("group", r.name))
    }
    async fn group_reattach(&self, r: ByName) -> Result<Done, ApiError> {
        Err(ApiError::not_found("group", r.name))
    }
    async fn mirror_resume(&self, r: MirrorOf) -> Result<Done, ApiError> {
        self.note(format!("resume {}", r.subject()));
        Ok(Done {})
    }

    async fn event_list(&self, r: EventQuery) -> Result<EventList, ApiError> {
        let after = r.after.unwrap_or(0);
        Ok(EventList { events: vec![event(after + 1)], next_after: after + 1 })
    }

    async fn alert_list(&self, _: AlertQuery) -> Result<AlertList, ApiError> {
        Ok(AlertList { alerts: sample().alerts })
    }

    async fn alert_ack(&self, r: ById) -> Result<Alert, ApiError> {
        self.note(format!("ack {}", r.id));
        Ok(Alert { id: r.id, acked: true, ..sample().alerts.remove(0) })
    }

    async fn job_list(&self, _: Nothing) -> Result<JobList, ApiError> {
        Ok(JobList { jobs: sample().jobs })
    }

    async fn job_show(&self, r: ById) -> Result<Job, ApiError> {
        let state = if self.looks.fetch_add(1, Ordering::Relaxed) == 0 { JobState::Running } else { JobState::Done };
        Ok(Job { id: r.id, ..self.job(state) })
    }

    async fn job_cancel(&self, r: ById) -> Result<Job, ApiError> {
        Ok(Job { id: r.id, ..self.job(JobState::Cancelled) })
    }

    async fn token_list(&self, _: Nothing) -> Result<TokenList, ApiError> {
        let info = StoredToken::mint(&[1; 40], "grafana".into(), Rights::ReadOnly, 1_790_000_000_000).stored.info();
        Ok(TokenList { tokens: vec![info] })
    }

    async fn token_create(&self, r: TokenCreate) -> Result<TokenCreated, ApiError> {
        let minted = StoredToken::mint(&[1; 40], r.label, r.rights, 1_790_000_000_000);
        Ok(TokenCreated { info: minted.stored.info(), token: minted.text })
    }

    async fn initiator_list(&self, _: Nothing) -> Result<InitiatorList, ApiError> {
        Ok(InitiatorList { initiators: vec![initiator("iqn.2026-01.com.example:host")], others: false })
    }

    async fn initiator_add(&self, r: InitiatorAdd) -> Result<InitiatorChanged, ApiError> {
        Ok(InitiatorChanged { initiator: initiator(r.name.as_str()), warnings: Vec::new() })
    }

    async fn initiator_set(&self, r: InitiatorSet) -> Result<InitiatorChanged, ApiError> {
        Ok(InitiatorChanged { initiator: initiator(r.name.as_str()), warnings: Vec::new() })
    }

    async fn initiator_remove(&self, _: InitiatorRef) -> Result<Done, ApiError> {
        Ok(Done {})
    }

    async fn token_revoke(&self, r: TokenRef) -> Result<Done, ApiError> {
        self.note(format!("revoke {}", r.id));
        Ok(Done {})
    }

    async fn inspect(&self, r: InspectQuery) -> Result<JournalPage, ApiError> {
        // A journal of the records 5 to 2504.
        let from = r.from_seq.unwrap_or(5).max(5);
        let end = (from + u64::from(r.limit.unwrap_or(PAGE_DEFAULT))).min(2505);
        let record = |seq: u64| {
            serde_json::from_value(serde_json::json!({
                "seq": seq, "kind": "write", "volume": "pg-data", "sector": seq * 8, "sectors": 8,
                "crc32c": ["deadbeef"], "wall_unix_us": 1_790_000_000_000_000u64
            }))
            .expect("record")
        };
        Ok(JournalPage { records: (from..end).map(record).collect(), next_seq: (end < 2505).then_some(end) })
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
        sessions: 0,
    }
}
