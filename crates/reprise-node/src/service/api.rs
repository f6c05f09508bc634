//! The commands of the API.

use std::time::Duration;

use reprise_api::server::Consequences;
use reprise_api::strangers::Full;
use reprise_api::*;
use reprise_types::{RecordKind, Role, Seq};

use super::turn::Task;
use super::{Inner, Machine, Node, chain, locked, stopping, to_the_end, wrong_state};
use crate::group::{Command, Inspected};
use crate::store::{StoreError, unix_ms};

fn store_error(error: &StoreError) -> ApiError {
    match error {
        StoreError::Full { .. } => ApiError::new(ErrorCode::LimitReached, error.to_string(), "remove one first"),
        _ => ApiError::internal(chain(error)),
    }
}

fn limit_of(limit: Option<u32>) -> Result<u32, ApiError> {
    match limit.unwrap_or(PAGE_DEFAULT) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        other => {
            let text = format!("{other} is no limit");
            Err(ApiError::new(ErrorCode::BadRequest, text, "give 1 to 1000"))
        }
    }
}

impl Inner {
    fn full_status(&self) -> Status {
        let groups = self.group_statuses();
        let known = |subject: &str| groups.iter().any(|g| subject.strip_prefix("group ") == Some(g.name.as_str()));
        let alerts = self.board.alerts(false).into_iter().filter(|a| !known(&a.subject)).collect();
        Status { this_box: self.box_status(), peers: self.peer_statuses(), alerts, jobs: self.board.jobs(), groups }
    }

    /// The status as JSON, for whoever helps.
    pub(super) fn status_text(&self) -> String {
        serde_json::to_string_pretty(&self.full_status()).unwrap_or_default()
    }

    fn box_status(&self) -> BoxStatus {
        let fill = self.pool.allocator().fill();
        let segment = self.pool.segment_len();
        let free = self.pool.data().free().map_or(0, |(free, _)| free);
        let spare: Vec<SpareArea> = (self.spare_areas().into_iter())
            .map(|(name, home, size_bytes)| SpareArea { name, home, size_bytes })
            .collect();
        let used = self.data_used().saturating_add(spare.iter().map(|s| s.size_bytes).sum());
        let (mut buffers, mut index) = (self.link_buffers.used(), 0);
        for group in self.running() {
            let snapshot = group.snapshot.borrow();
            buffers += snapshot.buffers;
            index += snapshot.stats.index_bytes;
        }
        BoxStatus {
            id: self.identity.box_id,
            name: self.settings.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_secs: self.started.elapsed().as_secs(),
            endpoints: locked(&self.endpoints).clone(),
            pool: PoolStatus {
                id: self.pool.id(),
                cache_path: self.pool.cache().path().display().to_string(),
                data_path: self.pool.data().path().display().to_string(),
                cache_bytes_total: u64::from(fill.total).saturating_mul(segment),
                cache_bytes_used: u64::from(fill.used).saturating_mul(segment),
                segment_bytes: segment,
                segments_total: fill.total.into(),
                segments_used: fill.used.into(),
                segments_reserved: fill.reserve.into(),
                data_bytes_total: self.data_limit.unwrap_or_else(|| used.saturating_add(free)),
                data_bytes_used: used,
                data_areas_spare: spare,
            },
            memory: MemoryStatus {
                buffers_bytes_used: buffers,
                buffers_bytes_limit: self.settings.limits.buffers.bytes(),
                index_bytes_used: index,
                index_bytes_limit: self.pool.allocator().index_memory().1,
            },
        }
    }

    /// What an action would do, or why it is refused.
    fn consequences(&self, action: &Action) -> Result<Consequences, ApiError> {
        let (summary, losses, basis) = match action {
            Action::VolumeErase { volume } | Action::VolumeRemove { volume } => {
                let erase = matches!(action, Action::VolumeErase { .. });
                let (group, meta) = self.may_leave(volume, erase)?;
                let home = meta.legs.first().map(|l| l.path.clone()).unwrap_or_default();
                let size = ByteSize::from_bytes(meta.sectors.bytes().get());
                let basis = format!("{} {}", group.id, meta.id);
                if erase {
                    let summary =
                        format!("Volume {volume} of group {} leaves it and its file {home} is deleted.", group.name);
                    (summary, vec![format!("The content of volume {volume}, {size}.")], basis)
                } else {
                    let summary = format!(
                        "Volume {volume} leaves group {} once {home} holds every write; {home} stays as it is.",
                        group.name
                    );
                    (summary, Vec::new(), basis)
                }
            }
            Action::PeerRemove { peer } => {
                let record = self.may_forget(peer)?;
                let summary = format!("Peer {peer} and its key are forgotten; to use it again it is paired anew.");
                (summary, Vec::new(), record.id.to_string())
            }
            Action::PeerReplace { peer, with } => {
                let (old, new) = (self.peer_named(peer)?, self.peer_named(with)?);
                if old.id == new.id {
                    return Err(wrong_state(
                        "a peer cannot take its own place",
                        "pair the other box first, then name it",
                    ));
                }
                let groups = self.groups_with(old.id);
                if let Some((name, _)) = groups.iter().find(|(_, role)| *role == Role::Mirror) {
                    let text = format!("group {name} is mirrored from {peer} to this box");
                    let what = format!("give that image up first: {}", self.words().give_up(name));
                    return Err(wrong_state(text, what));
                }
                for (name, _) in &groups {
                    let group = self.group(name)?;
                    self.may_be_mirrored(&group, &group.now().meta, Some(old.id))?;
                }
                let names: Vec<String> = groups.iter().map(|(name, _)| name.to_string()).collect();
                let summary = format!(
                    "Groups [{}] are mirrored to {with}, each with a first copy, and {peer} is forgotten.",
                    names.join(", ")
                );
                let losses = names.iter().map(|n| format!("The image of group {n} on {peer} no longer follows."));
                (summary, losses.collect(), format!("{} {} {names:?}", old.id, new.id))
            }
            Action::MirrorRemove { group, peer } => {
                let (running, record) = self.mirrored(group, peer)?;
                if let Some(reason) = running.now().meta.fenced.clone() {
                    return Err(super::refused(reprise_engine::CommandError::Fenced { reason }));
                }
                let mut summary = format!(
                    "Group {group} is no longer mirrored to {peer}. The image on {peer} stays as it is, and is not served by this version."
                );
                if !self.peer_link(record.id).0 {
                    summary.push_str(&format!(" {peer} cannot be reached: it learns of the end at the next contact."));
                }
                let losses = vec![
                    format!("What is written to {group} from then on is on this box only."),
                    format!(
                        "This version cannot copy onto an image: before {group} can be mirrored to {peer} again, the image is given \
                         up there, and all of it is copied anew."
                    ),
                ];
                (summary, losses, format!("{} {}", running.id, record.id))
            }
            Action::GroupDelete { group } => self.delete_consequences(group)?,
            Action::SystemReset { level } => {
                let mut told = self.machine.reset_consequences(*level)?;
                if *level >= ResetLevel::Forget {
                    told.losses.extend(self.group_statuses().iter().map(lost_with));
                }
                return Ok(told);
            }
        };
        Ok(Consequences { summary, losses, basis })
    }

    fn delete_consequences(&self, name: &Name) -> Result<(String, Vec<String>, String), ApiError> {
        let group = self.group(name)?;
        let snapshot = group.now();
        let meta = &snapshot.meta;
        self.nothing_prepared(&group)?;
        if meta.role() == Role::Source {
            if meta.peer().is_some() {
                return Err(super::refused(reprise_engine::CommandError::HasPeer));
            }
            if !meta.volumes.is_empty() {
                return Err(wrong_state(format!("group {name} has volumes"), "remove or erase them first"));
            }
            return Ok((format!("Group {name} and its journal are taken away."), Vec::new(), group.id.to_string()));
        }
        let source = meta.peer().map(|p| self.peer_name(p.peer)).unwrap_or_default();
        if snapshot.link.streaming {
            let text = format!("group {name} is being mirrored to this box");
            let end = self.words().end_mirror(name, self.settings.name.as_str());
            let what = format!("end the mirror on {source} first ({end}), then give the image up here");
            return Err(ApiError::new(ErrorCode::InUse, text, what));
        }
        let image = self.image(name, &snapshot, &self.heard());
        let from = image.as_ref().map(|i| i.source);
        let mut losses: Vec<String> =
            meta.volumes.iter().map(|v| format!("The mirrored image of volume {}.", v.name)).collect();
        losses.extend(image.map(|i| i.text));
        if from != Some(ImageSource::Ended) {
            losses.push(format!("It may be the last copy of {name}, and nothing brings it back."));
            losses.push(format!(
                "{source} has not ended this mirror: when it comes back it finds no image here, and stops sending {name} until a \
                 person ends the mirror there and begins it anew."
            ));
        }
        let summary =
            format!("The image of group {name} on this box, which came from {source}, is given up, with its journal.");
        Ok((summary, losses, format!("{} {} {from:?}", group.id, meta.volumes.len())))
    }
}

impl Node {
    async fn execute(&self, action: Action) -> Result<ActionDone, ApiError> {
        let inner = self.0.clone();
        self.0
            .turns
            .to_the_end(|mut task| async move {
                let done = |action: Action, job| Ok(ActionDone { action, job });
                match &action {
                    Action::VolumeErase { volume } => {
                        let job = inner.leave(task, volume, true).await?;
                        done(action, job)
                    }
                    Action::VolumeRemove { volume } => {
                        let job = inner.leave(task, volume, false).await?;
                        done(action, job)
                    }
                    Action::PeerRemove { peer } => {
                        inner.forget_peer(&mut task.command().await, peer).await?;
                        done(action.clone(), None)
                    }
                    Action::PeerReplace { peer, with } => {
                        let mut command = task.command().await;
                        inner.consequences(&action)?;
                        let (old, new) = (inner.peer_named(peer)?, inner.peer_named(with)?);
                        let job = inner.move_mirrors(&mut command, &old, &new).await?;
                        inner.forget_peer(&mut command, peer).await?;
                        done(action.clone(), job)
                    }
                    Action::MirrorRemove { group, peer } => {
                        let mut command = task.command().await;
                        let (running, record) = inner.mirrored(group, peer)?;
                        inner.end_mirror(&mut command, &running, &record).await?;
                        done(action.clone(), None)
                    }
                    Action::SystemReset { level } => {
                        inner.machine.reset(*level).await?;
                        done(action, None)
                    }
                    Action::GroupDelete { group } => {
                        let mut command = task.command().await;
                        let change = command.change().await;
                        inner.delete_consequences(group)?;
                        inner.delete_group(&change, group, None).await?;
                        done(action.clone(), None)
                    }
                }
            })
            .await
    }
}

/// What of a group a reset takes away.
fn lost_with(group: &GroupStatus) -> String {
    let volumes: Vec<String> =
        group.volumes.iter().map(|v| format!("{} ({})", v.name, ByteSize::from_bytes(v.size_bytes))).collect();
    let hosts: usize = group.targets.iter().map(|t| t.sessions.len()).sum();
    match &group.image {
        Some(image) => format!("The image of group {}: {}. {}", group.name, volumes.join(", "), image.text),
        None => format!("Group {}: {}; {hosts} hosts are logged in.", group.name, volumes.join(", ")),
    }
}

fn record(of: &Inspected, volumes: &[reprise_engine::VolumeMeta]) -> JournalRecord {
    let volume = volumes.iter().find(|v| v.slot == of.volume && of.sectors.get() != 0);
    let payload = of.crc != 0 || of.kind == RecordKind::Write;
    JournalRecord {
        seq: of.seq,
        kind: of.kind,
        volume: volume.map(|v| super::view::known_name(&v.name)),
        sector: of.sector.get(),
        sectors: of.sectors.get(),
        crc32c: payload.then(|| format!("{:08x}", of.crc)).into_iter().collect(),
        wall_unix_us: of.wall_micros,
    }
}

impl BoxService for Node {
    type Machine = Machine;

    fn machine(&self) -> &Machine {
        &self.0.machine
    }

    fn strangers_full(&self, listener: &str, full: &Full) {
        self.0.board.strangers_full(listener, full);
    }

    async fn action_describe(&self, action: &Action) -> Result<Consequences, ApiError> {
        if let Action::VolumeErase { volume } | Action::VolumeRemove { volume } = action {
            self.0.hosts_gone(volume).await;
        }
        if let Action::PeerReplace { peer, with } = action {
            self.0.consequences(action)?;
            let (inner, old, new) = (self.0.clone(), self.0.peer_named(peer)?, self.0.peer_named(with)?);
            let look = |mut task: Task| async move { inner.may_move_mirrors(&mut task, &old, &new).await };
            self.0.turns.to_the_end(look).await?;
        }
        self.0.consequences(action)
    }

    async fn action_execute(&self, action: &Action) -> Result<ActionDone, ApiError> {
        self.execute(action.clone()).await
    }

    async fn status(&self, _: Nothing) -> Result<Status, ApiError> {
        Ok(self.0.full_status())
    }

    async fn group_list(&self, _: Nothing) -> Result<GroupList, ApiError> {
        Ok(GroupList { groups: self.0.group_statuses() })
    }

    async fn group_create(&self, request: GroupCreate) -> Result<GroupStatus, ApiError> {
        let inner = self.0.clone();
        self.0
            .turns
            .to_the_end(|mut task| async move {
                let mut command = task.command().await;
                let change = command.change().await;
                inner.create_group(&change, &request.name).await?;
                inner.group_status(&request.name)
            })
            .await
    }

    async fn group_unfence(&self, request: ByName) -> Result<JobStarted, ApiError> {
        to_the_end(self.0.clone().unfence(request.name)).await
    }

    async fn group_reattach(&self, request: ByName) -> Result<Done, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().reattach(task, request.name)).await?;
        Ok(Done {})
    }

    async fn verify_start(&self, request: VerifyStart) -> Result<JobStarted, ApiError> {
        to_the_end(self.0.clone().verify(request)).await
    }

    async fn verify_report(&self, request: ById) -> Result<VerifyReport, ApiError> {
        self.0.verify_report(request.id)
    }

    async fn volume_list(&self, request: VolumeQuery) -> Result<VolumeList, ApiError> {
        let volumes = match &request.group {
            Some(group) => self.0.group_status(group)?.volumes,
            None => self.0.volume_statuses(),
        };
        Ok(VolumeList { volumes })
    }

    async fn volume_show(&self, request: ByName) -> Result<VolumeStatus, ApiError> {
        let found = self.0.volume_statuses().into_iter().find(|v| v.name == request.name);
        found.ok_or_else(|| ApiError::not_found("volume", &request.name))
    }

    async fn volume_create(&self, request: VolumeCreate) -> Result<VolumeStarted, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().create_volume(task, request)).await
    }

    async fn volume_resize(&self, request: VolumeResize) -> Result<VolumeStarted, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().resize_volume(task, request)).await
    }

    async fn volume_set(&self, request: VolumeSet) -> Result<VolumeStatus, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().set_volume(task, request)).await
    }

    async fn volume_adopt(&self, request: VolumeAdopt) -> Result<VolumeStarted, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().adopt_volume(task, request)).await
    }

    async fn peer_list(&self, _: Nothing) -> Result<PeerList, ApiError> {
        Ok(PeerList { peers: self.0.peer_statuses() })
    }

    async fn peer_set(&self, request: PeerSet) -> Result<PeerStatus, ApiError> {
        self.0.set_peer_address(&request)
    }

    async fn pair_status(&self, _: Nothing) -> Result<PairStatus, ApiError> {
        Ok(self.0.pair_state())
    }

    async fn pair_listen(&self, request: PairListen) -> Result<PairOffer, ApiError> {
        self.0.listen_for_pair(&request)
    }

    async fn pair_dial(&self, request: PairDial) -> Result<PairStatus, ApiError> {
        to_the_end(self.0.clone().dial_pair(request)).await
    }

    async fn pair_cancel(&self, _: Nothing) -> Result<PairStatus, ApiError> {
        Ok(self.0.cancel_pair())
    }

    async fn peer_share(&self, request: PeerShareSet) -> Result<PeerStatus, ApiError> {
        self.0.set_share(&request)
    }

    async fn mirror_add(&self, request: MirrorOf) -> Result<MirrorStarted, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().add_mirror(task, request)).await
    }

    async fn mirror_pause(&self, request: MirrorOf) -> Result<Done, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().pause_mirror(task, request, true)).await?;
        Ok(Done {})
    }

    async fn mirror_resume(&self, request: MirrorOf) -> Result<Done, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().pause_mirror(task, request, false)).await?;
        Ok(Done {})
    }

    async fn event_list(&self, request: EventQuery) -> Result<EventList, ApiError> {
        let limit = limit_of(request.limit)? as usize;
        let wait = request.wait_secs.unwrap_or(0);
        if wait > EVENT_WAIT_SECS_MAX {
            let text = format!("{wait} seconds is too long a wait");
            return Err(ApiError::new(ErrorCode::BadRequest, text, "wait up to 25 seconds"));
        }
        if let (Some(after), 1..) = (request.after, wait) {
            let waiting = self.0.board.wait_for_event(after);
            let _ = tokio::time::timeout(Duration::from_secs(wait.into()), waiting).await;
        } else if wait > 0 {
            return Err(ApiError::new(ErrorCode::BadRequest, "to wait, say after which event", "give after"));
        }
        let (events, next_after) = self.0.board.events(request.after, limit);
        Ok(EventList { events, next_after })
    }

    async fn alert_list(&self, request: AlertQuery) -> Result<AlertList, ApiError> {
        Ok(AlertList { alerts: self.0.board.alerts(request.cleared) })
    }

    async fn alert_ack(&self, request: ById) -> Result<Alert, ApiError> {
        self.0.board.ack(request.id)
    }

    async fn job_list(&self, _: Nothing) -> Result<JobList, ApiError> {
        Ok(JobList { jobs: self.0.board.jobs() })
    }

    async fn job_show(&self, request: ById) -> Result<Job, ApiError> {
        self.0.board.job(request.id)
    }

    async fn job_cancel(&self, request: ById) -> Result<Job, ApiError> {
        self.0.board.cancel_job(request.id)
    }

    async fn initiator_list(&self, _: Nothing) -> Result<InitiatorList, ApiError> {
        Ok(self.0.initiator_list())
    }

    async fn initiator_add(&self, request: InitiatorAdd) -> Result<InitiatorChanged, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().add_initiator(task, request)).await
    }

    async fn initiator_set(&self, request: InitiatorSet) -> Result<InitiatorChanged, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().set_initiator(task, request)).await
    }

    async fn initiator_remove(&self, request: InitiatorRef) -> Result<Done, ApiError> {
        self.0.turns.to_the_end(|task| self.0.clone().remove_initiator(task, request.name)).await
    }

    async fn token_list(&self, _: Nothing) -> Result<TokenList, ApiError> {
        let tokens = self.0.store.tokens().map_err(|e| store_error(&e))?;
        Ok(TokenList { tokens: tokens.iter().map(StoredToken::info).collect() })
    }

    async fn token_create(&self, request: TokenCreate) -> Result<TokenCreated, ApiError> {
        let label = &request.label;
        if label.trim_matches(' ').is_empty()
            || label.chars().count() > TOKEN_LABEL_CHARS_MAX
            || label.contains(char::is_control)
        {
            let text = "a label has 1 to 64 characters, not only spaces and no control characters";
            return Err(ApiError::new(ErrorCode::BadRequest, text, "say in a few words what the token is for"));
        }
        let mut random = [0; 40];
        getrandom::fill(&mut random).map_err(|_| ApiError::internal("the box has no random numbers"))?;
        let minted = StoredToken::mint(&random, request.label, request.rights, unix_ms());
        self.0.store.put_token(&minted.stored).map_err(|e| store_error(&e))?;
        Ok(TokenCreated { info: minted.stored.info(), token: minted.text })
    }

    async fn token_revoke(&self, request: TokenRef) -> Result<Done, ApiError> {
        match self.0.store.remove_token(&request.id).map_err(|e| store_error(&e))? {
            true => Ok(Done {}),
            false => Err(ApiError::not_found("token", &request.id)),
        }
    }

    async fn inspect(&self, request: InspectQuery) -> Result<JournalPage, ApiError> {
        let limit = limit_of(request.limit)? as usize;
        let group = self.0.group(&request.group)?;
        let meta = group.now().meta;
        let from = request.from_seq.unwrap_or(0);
        let after = Seq::from_raw(from.saturating_sub(1)).max(meta.trimmed.seq);
        let (reply, answer) = tokio::sync::oneshot::channel();
        let command = Command::Inspect { after, limit, reply };
        group.commands.send(command).await.map_err(|_| stopping())?;
        let found = answer.await.map_err(|_| stopping())?;
        let records: Vec<JournalRecord> = found.iter().take(limit).map(|r| record(r, &meta.volumes)).collect();
        let full = records.len() >= limit;
        let next_seq = records.last().filter(|_| full).map(|r| r.seq.get().saturating_add(1));
        Ok(JournalPage { records, next_seq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded() {
        assert_eq!(limit_of(None).unwrap(), PAGE_DEFAULT);
        assert_eq!(limit_of(Some(1000)).unwrap(), 1000);
        for bad in [0, 1001, u32::MAX] {
            assert_eq!(limit_of(Some(bad)).unwrap_err().code, ErrorCode::BadRequest);
        }
    }
}
