//! Initiators: the rules of login, from the settings and from the store.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use reprise_api::*;
use reprise_iscsi::{Acl, Chap, Credentials, Initiator, Limit, Secret};

use super::turn::Task;
use super::{Inner, chain, locked};
use crate::group::Command;
use crate::store::StoreError;

/// Longest secret that Microsoft's initiator takes.
const SECRET_LEN_WINDOWS: usize = 16;

fn refused(error: &StoreError) -> ApiError {
    match error {
        StoreError::Full { .. } => ApiError::new(ErrorCode::LimitReached, error.to_string(), "remove one first"),
        _ => ApiError::internal(chain(error)),
    }
}

fn limit(record: &InitiatorAdd) -> Limit {
    Limit {
        commands_per_sec: record.iops.and_then(NonZeroU32::new),
        bytes_per_sec: record.bytes_per_sec.and_then(|rate| NonZeroU64::new(rate.bytes())),
    }
}

/// What the target asks for; none where the stored rule cannot be carried out.
fn chap(rule: &ChapRule) -> Option<Chap> {
    let credentials = |user: &str, secret: &ChapSecret| {
        Some(Credentials { user: user.into(), secret: Secret::new(secret.expose())? })
    };
    let own = match (&rule.mutual_user, &rule.mutual_secret) {
        (Some(user), Some(secret)) => Some(credentials(user, secret)?),
        _ => None,
    };
    Chap::new(credentials(&rule.user, &rule.secret)?, own).ok()
}

/// The rule of one initiator for the target of a group.
fn rule(record: &InitiatorAdd, group: &Name) -> Initiator {
    let name = record.name.to_string();
    let (chap, usable) = match &record.chap {
        Some(rule) => {
            let chap = chap(rule);
            let usable = chap.is_some();
            (chap, usable)
        }
        None => (None, true),
    };
    let admitted = usable && (record.groups.is_empty() || record.groups.contains(group));
    Initiator { name, admitted, networks: record.addresses.clone(), chap, limit: limit(record) }
}

fn check(record: &InitiatorAdd) -> Result<Vec<String>, ApiError> {
    if record.groups.len() > RULES_MAX || record.addresses.len() > RULES_MAX {
        let text = format!("an initiator has at most {RULES_MAX} groups and {RULES_MAX} networks");
        return Err(ApiError::new(ErrorCode::BadRequest, text, "name a larger network, or all groups"));
    }
    let Some(rule) = &record.chap else { return Ok(Vec::new()) };
    if let Some(problem) = rule.problem() {
        return Err(ApiError::new(ErrorCode::BadRequest, problem, "see docs/api.md, Initiators"));
    }
    let long = [Some(&rule.secret), rule.mutual_secret.as_ref()].into_iter().flatten();
    let long = long.filter(|secret| secret.expose().len() > SECRET_LEN_WINDOWS).count();
    let text = "A secret is longer than 16 bytes: Microsoft's initiator does not take it.";
    Ok(if long > 0 { vec![text.to_owned()] } else { Vec::new() })
}

impl Inner {
    fn stored_initiators(&self) -> Vec<InitiatorAdd> {
        self.store.initiators().unwrap_or_else(|error| {
            // Nobody is let in by a rule that cannot be read.
            tracing::error!(error = &error as &dyn std::error::Error, "rules of initiators cannot be read");
            Vec::new()
        })
    }

    fn lets_others_in(&self) -> bool {
        self.settings.iscsi.lets_others_in(self.store.has_initiators())
    }

    /// Initiators of the settings for which no command has made a rule.
    fn initiators_of_settings(&self, stored: &[InitiatorAdd]) -> Vec<InitiatorName> {
        let names = self.settings.iscsi.initiators.iter().filter_map(|name| name.parse::<InitiatorName>().ok());
        let mut names: Vec<_> = names.filter(|name| stored.iter().all(|record| record.name != *name)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Who may use the target of a group.
    pub(super) fn acl(&self, group: &Name) -> Acl {
        let stored = self.stored_initiators();
        let named = self.initiators_of_settings(&stored);
        let mut initiators: Vec<Arc<Initiator>> = stored.iter().map(|record| Arc::new(rule(record, group))).collect();
        initiators.extend(named.into_iter().map(|name| Arc::new(Initiator::named(name.to_string()))));
        Acl { initiators, others: self.lets_others_in() }
    }

    /// Has every group and the portal use the rules as they are.
    async fn apply_acl(&self) {
        *locked(&self.published) = None;
        self.publish_targets();
        for group in self.running() {
            // A group that stops needs no rules.
            let _ = group.commands.send(Command::SetAcl(self.acl(&group.name))).await;
        }
    }

    fn sessions_of(&self, name: &str) -> u32 {
        let count = |group: &super::groups::Running| {
            let snapshot = group.snapshot.borrow();
            snapshot.sessions.iter().filter(|s| s.initiator.eq_ignore_ascii_case(name)).count()
        };
        u32::try_from(self.running().iter().map(count).sum::<usize>()).unwrap_or(u32::MAX)
    }

    fn initiator_status(&self, record: &InitiatorAdd, from_settings: bool) -> InitiatorStatus {
        let limit = limit(record);
        InitiatorStatus {
            name: record.name.clone(),
            from_settings,
            groups: record.groups.clone(),
            addresses: record.addresses.clone(),
            chap_user: record.chap.as_ref().map(|rule| rule.user.clone()),
            mutual_user: record.chap.as_ref().and_then(|rule| rule.mutual_user.clone()),
            iops: limit.commands_per_sec.map(NonZeroU32::get),
            bytes_per_sec: limit.bytes_per_sec.map(NonZeroU64::get),
            sessions: self.sessions_of(record.name.as_str()),
        }
    }

    pub(super) fn initiator_list(&self) -> InitiatorList {
        let stored = self.stored_initiators();
        let mut initiators: Vec<_> = stored.iter().map(|record| self.initiator_status(record, false)).collect();
        initiators.extend(self.initiators_of_settings(&stored).into_iter().map(|name| {
            let record = InitiatorAdd {
                name,
                groups: Vec::new(),
                addresses: Vec::new(),
                chap: None,
                iops: None,
                bytes_per_sec: None,
            };
            self.initiator_status(&record, true)
        }));
        initiators.sort_by(|a, b| a.name.cmp(&b.name));
        InitiatorList { initiators, others: self.lets_others_in() }
    }

    async fn keep_initiator(&self, record: InitiatorAdd) -> Result<InitiatorChanged, ApiError> {
        let mut warnings = check(&record)?;
        warnings.extend(self.not_served_here(&record.groups));
        self.store.put_initiator(&record).map_err(|e| refused(&e))?;
        self.apply_acl().await;
        Ok(InitiatorChanged { initiator: self.initiator_status(&record, false), warnings })
    }

    /// Groups that a host may use by its rule and that this box only keeps the image of.
    fn not_served_here(&self, groups: &[Name]) -> Vec<String> {
        let named = |g: &super::groups::Running| groups.is_empty() || groups.contains(&g.name);
        let mirrors = self.running().into_iter().filter(named).filter_map(|group| {
            let meta = group.now().meta;
            let source = meta.peer().filter(|_| meta.role() == Role::Mirror)?.peer;
            Some(super::words::not_served_here(&group.name, &self.peer_name(source)))
        });
        mirrors.collect()
    }

    fn known_initiator(&self, name: &InitiatorName) -> Result<InitiatorAdd, ApiError> {
        let found = self.stored_initiators().into_iter().find(|record| record.name == *name);
        found.ok_or_else(|| ApiError::not_found("initiator", name))
    }

    pub(super) async fn add_initiator(
        self: Arc<Self>,
        mut task: Task,
        record: InitiatorAdd,
    ) -> Result<InitiatorChanged, ApiError> {
        let _one = task.command().await;
        if self.known_initiator(&record.name).is_ok() {
            let text = format!("there is an initiator {} already", record.name);
            return Err(ApiError::new(ErrorCode::NameTaken, text, "change it: reprise initiator set"));
        }
        self.keep_initiator(record).await
    }

    pub(super) async fn set_initiator(
        self: Arc<Self>,
        mut task: Task,
        change: InitiatorSet,
    ) -> Result<InitiatorChanged, ApiError> {
        let _one = task.command().await;
        if change.chap.is_some() && change.no_chap {
            let text = "chap and no_chap exclude each other";
            return Err(ApiError::new(ErrorCode::BadRequest, text, "give one of them"));
        }
        let mut record = self.known_initiator(&change.name)?;
        record.groups = change.groups.unwrap_or(record.groups);
        record.addresses = change.addresses.unwrap_or(record.addresses);
        record.chap = if change.no_chap { None } else { change.chap.or(record.chap) };
        record.iops = change.iops.or(record.iops);
        record.bytes_per_sec = change.bytes_per_sec.or(record.bytes_per_sec);
        self.keep_initiator(record).await
    }

    pub(super) async fn remove_initiator(
        self: Arc<Self>,
        mut task: Task,
        name: InitiatorName,
    ) -> Result<Done, ApiError> {
        let _one = task.command().await;
        if !self.store.remove_initiator(&name).map_err(|e| refused(&e))? {
            return Err(ApiError::not_found("initiator", &name));
        }
        self.apply_acl().await;
        Ok(Done {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> InitiatorAdd {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn rules_say_what_was_asked_for() {
        let text = r#"{"name": "iqn.a:b", "groups": ["db"], "addresses": ["192.0.2.0/24"], "iops": 100, "bytes_per_sec": 0,
            "chap": {"user": "u", "secret": "of-the-initiator", "mutual_user": "b", "mutual_secret": "of-the-target"}}"#;
        let record = record(text);
        let here = rule(&record, &"db".parse().unwrap());
        assert!(here.admitted && here.chap.is_some() && here.networks == record.addresses);
        assert_eq!((here.limit.commands_per_sec, here.limit.bytes_per_sec), (NonZeroU32::new(100), None));
        assert!(!rule(&record, &"other".parse().unwrap()).admitted);
        assert!(check(&record).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_carried_out_lets_nobody_in() {
        let text = r#"{"name": "iqn.a:b",
            "chap": {"user": "u", "secret": "of-the-initiator", "mutual_user": "b", "mutual_secret": "of-the-initiator"}}"#;
        let broken = record(text);
        assert!(check(&broken).is_err());
        let rule = rule(&broken, &"db".parse().unwrap());
        assert!(!rule.admitted, "a rule without its proof is no rule");
        let long = record(r#"{"name": "iqn.a:b", "chap": {"user": "u", "secret": "seventeen-bytes-x"}}"#);
        assert_eq!(check(&long).unwrap().len(), 1);
    }
}
