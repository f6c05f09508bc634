//! A box as the web console sees it: the API's table of commands over a real local socket, with answers that a test sets.
//! Requests are read by the API's own types, so that one the box would refuse is refused here, too.
#![allow(unreachable_pub)]
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use reprise_api::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What the box is like.
pub(crate) struct World {
    /// Commands that change something, in the order they came: name and request.
    pub calls: Vec<(String, Value)>,
    pub status: Status,
    pub events: Vec<Event>,
    pub initiators: InitiatorList,
    pub pair: PairState,
    pub notify: NotifySettings,
    /// None: a Linux of one's own.
    pub system: Option<SystemStatus>,
    pub password: Option<String>,
    /// Of the sessions: grows with each password.
    pub generation: u64,
    pub pool: bool,
    /// Answers in place of the usual ones, by command.
    pub refuse: BTreeMap<String, ApiError>,
    pub log: Vec<String>,
    pub bundle: SupportBundle,
    previews: BTreeMap<String, Action>,
}

/// What sets the first password.
pub(crate) const CODE: &str = "K7M-3PQ-9TX";

/// The box.
#[derive(Clone)]
pub(crate) struct Double(Arc<Mutex<World>>);

pub(crate) fn sample() -> Status {
    serde_json::from_str(include_str!("../../../reprise-api/tests/golden/status.json")).unwrap()
}

fn verify_job() -> Job {
    Job { id: 8, kind: JobKind::Verify, state: JobState::Done, ..sample().jobs.remove(0) }
}

fn report() -> VerifyReport {
    serde_json::from_value(json!({
        "job": 8, "group": "pg", "branch": "6a6b6c6d6e6f70717273747576777879", "seq": 1_234_567, "hash": "00ff",
        "bytes_total": 4096, "bytes_compared": 4096, "bytes_differing": 512, "bytes_repaired": 512, "bytes_unreadable": 0,
        "extents": [{"volume": "pg-data", "sector": 8, "sectors": 1}], "equal": false, "stopped": null, "proof": null
    }))
    .unwrap()
}

pub(crate) fn system() -> SystemStatus {
    serde_json::from_value(json!({
        "name": "lyon", "uptime_secs": 5000, "memory_bytes_total": 4_294_967_296u64, "memory_bytes_available": 3_221_225_472u64,
        "firmware": {"version": "0.1.0", "slot": "a", "confirmed": true, "fell_back": false, "watchdog": "iTCO_wdt", "secure_boot": true},
        "clock": {"unix_ms": 1_790_003_600_000u64, "state": {"kind": "synchronized", "server": "ntp.example", "offset_us": 350}, "servers": ["ntp.example"]},
        "network": {
            "interfaces": [
                {"name": "eth0", "mac": "52:54:00:00:00:01", "carrier": true, "speed_mbit": 1000, "addresses": ["192.0.2.7/24"], "gateways": ["192.0.2.1"]},
                {"name": "eth1", "mac": "52:54:00:00:00:02", "carrier": false, "speed_mbit": null, "addresses": [], "gateways": []}
            ],
            "settings": {"interfaces": [{"name": "eth1", "kind": {"kind": "vlan", "parent": "eth0", "id": 100}, "ipv4": {"kind": "off"}}], "nameservers": ["192.0.2.53"]},
            "nameservers": ["192.0.2.53"], "reverts_in_secs": null
        },
        "disks": [
            {"path": "/dev/sda", "serial": "BOOT1", "model": "Acme Boot", "size_bytes": 34_359_738_368u64, "usage": {"kind": "boot", "free_bytes": 30_000_000_000u64, "pool": false}},
            {"path": "/dev/sdb", "serial": "POOL1", "model": "Acme Disk", "size_bytes": 214_748_364_800u64, "usage": {"kind": "pool"}},
            {"path": "/dev/sdc", "serial": "FOREIGN1", "model": "Acme Disk", "size_bytes": 214_748_364_800u64, "usage": {"kind": "foreign", "what": "ext4"}},
            {"path": "/dev/sdd", "serial": "BLANK1", "model": "Acme Disk", "size_bytes": 214_748_364_800u64, "usage": {"kind": "blank"}}
        ],
        "pool": {"kind": "on", "path": "/dev/sdb", "serial": "POOL1"},
        "config": {"kind": "good"},
        "processes": [{"name": "daemon", "running": true, "restarts": 0, "last_exit": null}]
    }))
    .unwrap()
}

pub(crate) fn initiators() -> InitiatorList {
    serde_json::from_value(json!({
        "initiators": [{
            "name": "iqn.2026-01.com.example:host", "from_settings": false, "groups": ["pg"], "addresses": ["192.0.2.0/24"],
            "chap_user": "host", "mutual_user": null, "iops": 100, "bytes_per_sec": null, "sessions": 1
        }],
        "others": false
    }))
    .unwrap()
}

impl Double {
    pub(crate) fn new() -> Self {
        let event = |id: u64| Event {
            id,
            at_unix_ms: 1_790_000_000_000 + id,
            code: "link-up".into(),
            severity: Severity::Info,
            subject: "peer turin".into(),
            text: format!("Event number {id}."),
            what_to_do: String::new(),
        };
        Self(Arc::new(Mutex::new(World {
            calls: Vec::new(),
            status: sample(),
            events: (1..=120).map(event).collect(),
            initiators: initiators(),
            pair: PairState::Idle,
            notify: NotifySettings::default(),
            system: Some(system()),
            password: None,
            generation: 1,
            pool: true,
            refuse: BTreeMap::new(),
            log: vec!["a line of the log".into()],
            bundle: SupportBundle { file_name: "support.tar.gz".into(), content_base64: "YnVuZGxl".into() },
            previews: BTreeMap::new(),
        })))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// What was asked to be changed since the last time.
    pub(crate) fn taken(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.world().calls)
    }

    /// Serves the API at a socket until the task is dropped.
    pub(crate) fn serve(&self, socket: &Path) -> tokio::task::JoinHandle<()> {
        let _ = std::fs::remove_file(socket);
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let router = axum::Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        })
    }
}

async fn answer(State(double): State<Double>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let verb = if request.method() == "GET" { Verb::Get } else { Verb::Post };
    let body = axum::body::to_bytes(request.into_body(), 64 << 10).await.unwrap();
    let Some(route) = routes().find(|r| r.verb == verb && r.path == path) else {
        return (StatusCode::NOT_FOUND, "no such route").into_response();
    };
    let body = if verb == Verb::Get {
        Asked::Query(query)
    } else {
        Asked::Body(serde_json::from_slice(&body).unwrap_or(Value::Null))
    };
    match double.carry_out(route, &body) {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(error) => (StatusCode::from_u16(error.code.http_status()).unwrap(), axum::Json(error)).into_response(),
    }
}

enum Asked {
    Query(String),
    Body(Value),
}

impl Asked {
    /// The request as the box reads it.
    fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let bad = |why: String| ApiError::new(ErrorCode::BadRequest, why, "write it as the API has it");
        match self {
            Self::Query(text) => serde_urlencoded::from_str(text).map_err(|e| bad(e.to_string())),
            Self::Body(value) => serde_json::from_value(value.clone()).map_err(|e| bad(e.to_string())),
        }
    }
}

fn give(answer: impl Serialize) -> Result<Value, ApiError> {
    Ok(serde_json::to_value(answer).unwrap())
}

impl Double {
    fn carry_out(&self, route: &Route, asked: &Asked) -> Result<Value, ApiError> {
        let mut w = self.world();
        if let Some(error) = w.refuse.get(route.name) {
            return Err(error.clone());
        }
        if let Asked::Body(value) = asked {
            w.calls.push((route.name.to_owned(), value.clone()));
        }
        let of_machine = ["/api/v1/system", "/api/v1/admin", "/api/v1/notify", "/api/v1/actions"];
        if !w.pool && !of_machine.iter().any(|p| route.path.starts_with(p)) {
            return Err(ApiError::new(ErrorCode::NoPool, "the box has no disk for its pool yet", "choose a disk"));
        }
        if w.system.is_none() && route.path.starts_with("/api/v1/system") {
            return Err(ApiError::new(
                ErrorCode::NotSupported,
                "this box is no appliance",
                "use the system's own tools",
            ));
        }
        if matches!(asked, Asked::Body(_)) { change(&mut w, route.name, asked) } else { look(&w, route.name, asked) }
    }
}

fn administrator(w: &World) -> AdminStatus {
    AdminStatus { password_set: w.password.is_some(), generation: w.generation.to_string() }
}

impl World {
    /// As the serial console and the command line of the box do it.
    pub fn set_password(&mut self, new: &str) {
        self.password = Some(new.to_owned());
        self.generation += 1;
    }
}

fn look(w: &World, command: &str, asked: &Asked) -> Result<Value, ApiError> {
    match command {
        "status" => give(&w.status),
        "group_list" => give(GroupList { groups: w.status.groups.clone() }),
        "volume_show" => {
            let name = asked.read::<ByName>()?.name;
            let volume = w.status.groups.iter().flat_map(|g| &g.volumes).find(|v| v.name == name);
            give(volume.ok_or_else(|| ApiError::not_found("volume", &name))?)
        }
        "initiator_list" => give(&w.initiators),
        "pair_status" => give(PairStatus { state: w.pair.clone() }),
        "event_list" => {
            let query: EventQuery = asked.read()?;
            let limit = query.limit.unwrap_or(100) as usize;
            let mut events: Vec<_> =
                w.events.iter().filter(|e| query.after.is_none_or(|a| e.id > a)).cloned().collect();
            if query.after.is_some() {
                events.truncate(limit);
            } else {
                events.drain(..events.len().saturating_sub(limit));
            }
            let next_after = events.last().map_or(0, |e| e.id);
            give(EventList { events, next_after })
        }
        "alert_list" => {
            let cleared = asked.read::<AlertQuery>()?.cleared;
            let all = w.status.alerts.iter().chain(w.status.groups.iter().flat_map(|g| &g.alerts));
            give(AlertList { alerts: all.filter(|a| cleared || a.cleared_unix_ms.is_none()).cloned().collect() })
        }
        "job_list" => give(JobList { jobs: [&w.status.jobs[..], &[verify_job()]].concat() }),
        "job_show" => {
            let id = asked.read::<ById>()?.id;
            let jobs = [&w.status.jobs[..], &[verify_job()]].concat();
            give(jobs.into_iter().find(|j| j.id == id).ok_or_else(|| ApiError::not_found("job", id))?)
        }
        "verify_report" => match asked.read::<ById>()?.id {
            8 => give(report()),
            id => Err(ApiError::not_found("comparison of job", id)),
        },
        "system_show" => give(w.system.as_ref()),
        "system_logs" => {
            let lines = asked.read::<LogQuery>()?.lines.unwrap_or(200) as usize;
            give(LogLines { lines: w.log.iter().rev().take(lines).rev().cloned().collect() })
        }
        "admin_status" => give(administrator(w)),
        "notify_show" => give(&w.notify),
        other => panic!("the console does not ask for {other}"),
    }
}

fn change(w: &mut World, command: &str, asked: &Asked) -> Result<Value, ApiError> {
    let running = |w: &World| w.status.jobs[0].clone();
    match command {
        "group_create" => {
            let name = asked.read::<GroupCreate>()?.name;
            let group = GroupStatus { name, volumes: Vec::new(), targets: Vec::new(), ..sample().groups.remove(1) };
            w.status.groups.push(group.clone());
            give(group)
        }
        "group_unfence" => asked.read::<ByName>().and_then(|_| give(JobStarted { job: running(w) })),
        "group_reattach" => asked.read::<ByName>().and_then(|_| give(Done {})),
        "volume_create" => {
            let r: VolumeCreate = asked.read()?;
            let volume = w.status.groups[1].volumes[0].clone();
            give(VolumeStarted {
                volume: VolumeStatus { name: r.name, group: r.group, ..volume },
                job: Some(running(w)),
            })
        }
        "volume_adopt" => {
            let r: VolumeAdopt = asked.read()?;
            let volume = w.status.groups[1].volumes[0].clone();
            give(VolumeStarted { volume: VolumeStatus { name: r.name, group: r.group, ..volume }, job: None })
        }
        "volume_resize" => {
            let r: VolumeResize = asked.read()?;
            let volume = w.status.groups[1].volumes[0].clone();
            give(VolumeStarted { volume: VolumeStatus { name: r.name, ..volume }, job: None })
        }
        "peer_set" => {
            let r: PeerSet = asked.read()?;
            let peer = &mut w.status.peers[0];
            peer.address = Some(r.address);
            give(peer)
        }
        "volume_set" => {
            let r: VolumeSet = asked.read()?;
            let volume = &mut w.status.groups[1].volumes[0];
            volume.read_only = r.read_only;
            give(volume)
        }
        "initiator_add" => {
            let r: InitiatorAdd = asked.read()?;
            let status = InitiatorStatus { name: r.name, ..initiators().initiators.remove(0) };
            w.initiators.initiators.push(status.clone());
            give(InitiatorChanged { initiator: status, warnings: vec!["A warning of the box.".into()] })
        }
        "initiator_set" => {
            let name = asked.read::<InitiatorSet>()?.name;
            let status = InitiatorStatus { name, ..initiators().initiators.remove(0) };
            give(InitiatorChanged { initiator: status, warnings: Vec::new() })
        }
        "initiator_remove" => asked.read::<InitiatorRef>().and_then(|_| give(Done {})),
        "pair_listen" => {
            let r: PairListen = asked.read()?;
            w.pair = PairState::Listening { expires_in_secs: r.valid_secs };
            let addresses = vec!["192.0.2.7:3261".into()];
            give(PairOffer { code: "4F7-K2M-9TX".into(), addresses, expires_in_secs: r.valid_secs })
        }
        "pair_dial" => {
            let r: PairDial = asked.read()?;
            let peer = sample().peers.remove(0);
            w.pair = if r.code == "4F7-K2M-9TX" {
                PairState::Paired { peer_id: peer.id, peer: peer.name, address: r.address }
            } else {
                let error = ApiError::new(ErrorCode::PairingFailed, "the code is wrong", "ask for a fresh code");
                PairState::Failed { error }
            };
            give(PairStatus { state: w.pair.clone() })
        }
        "peer_share" => {
            let r: PeerShareSet = asked.read()?;
            let peer = &mut w.status.peers[0];
            peer.share = r.share;
            give(peer)
        }
        "pair_cancel" => {
            w.pair = PairState::Cancelled;
            give(PairStatus { state: PairState::Cancelled })
        }
        "mirror_add" => asked
            .read::<MirrorOf>()
            .and_then(|_| give(MirrorStarted { job: Some(running(w)), warnings: vec!["It is slower.".into()] })),
        "mirror_pause" | "mirror_resume" => asked.read::<MirrorOf>().and_then(|_| give(Done {})),
        "verify_start" => asked.read::<VerifyStart>().and_then(|_| give(JobStarted { job: verify_job() })),
        "alert_ack" => {
            let id = asked.read::<ById>()?.id;
            let mut alerts =
                w.status.alerts.iter_mut().chain(w.status.groups.iter_mut().flat_map(|g| g.alerts.iter_mut()));
            let alert = alerts.find(|a| a.id == id).ok_or_else(|| ApiError::not_found("alert", id))?;
            alert.acked = true;
            give(alert)
        }
        "job_cancel" => {
            let id = asked.read::<ById>()?.id;
            give(Job { id, state: JobState::Cancelled, ..running(w) })
        }
        "system_network_set" => {
            w.system.as_mut().unwrap().network.settings = asked.read()?;
            w.system.as_mut().unwrap().network.reverts_in_secs = Some(120);
            give(Done {})
        }
        "system_network_keep" => {
            w.system.as_mut().unwrap().network.reverts_in_secs = None;
            give(Done {})
        }
        "system_time_set" => asked.read::<TimeSet>().and_then(|_| give(Done {})),
        "system_name_set" => asked.read::<NameSet>().and_then(|_| give(Done {})),
        "system_disk_take" => asked.read::<DiskTake>().and_then(|_| give(Done {})),
        "system_power" => asked.read::<Power>().and_then(|_| give(Done {})),
        "system_support" => give(&w.bundle),
        "notify_set" => {
            w.notify = asked.read()?;
            give(&w.notify)
        }
        "notify_test" => {
            let to = |to: &str, error: Option<&str>| NotifyResult { to: to.into(), error: error.map(Into::into) };
            give(NotifyTest { results: vec![to("https://a.example/", None), to("mail.example", Some("refused"))] })
        }
        "admin_password" => {
            let r: PasswordSet = asked.read()?;
            let wrong = |why: &str| Err(ApiError::new(ErrorCode::Forbidden, why, "type it again"));
            if r.code.as_deref().is_some_and(|code| w.password.is_some() || code != CODE) {
                return wrong("this is not the code of the box");
            }
            if r.code.is_none() && (w.password.is_none() || w.password != r.current) {
                return wrong("the password so far is another");
            }
            w.set_password(&r.new);
            give(administrator(w))
        }
        "admin_login" => {
            let r: Login = asked.read()?;
            if w.password.as_ref() != Some(&r.password) {
                return Err(ApiError::new(ErrorCode::Forbidden, "this is not the password", "try again"));
            }
            give(administrator(w))
        }
        "action_preview" => {
            let action = asked.read::<PreviewRequest>()?.action;
            let token = format!("token-{}", w.previews.len());
            w.previews.insert(token.clone(), action.clone());
            let summary = format!("This will {}.", action.subject());
            give(Preview { action, summary, losses: vec!["50 GiB of data".into()], token, expires_in_secs: 300 })
        }
        "action_confirm" => {
            let token = asked.read::<Confirm>()?.token;
            let unknown = || ApiError::new(ErrorCode::ConfirmationUnknown, "the token is unknown", "ask again");
            let action = w.previews.remove(&token).ok_or_else(unknown)?;
            give(ActionDone { action, job: None })
        }
        other => panic!("the console does not ask for {other}"),
    }
}

/// A directory with the certificate and the key of a box.
pub(crate) fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.join("https-cert.pem"), dir.join("https-key.pem"));
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    (cert, key)
}
