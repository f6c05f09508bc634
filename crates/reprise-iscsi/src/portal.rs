//! What a portal offers: targets, who may use them, and where they are.

use core::net::IpAddr;
use std::sync::Arc;

use reprise_scsi::LunMap;
use reprise_types::IpNetwork;

use crate::chap::Chap;
use crate::limit::Limit;

/// An initiator that is known by name, and what it may do.
#[derive(Debug, Clone)]
pub struct Initiator {
    /// Its iSCSI name, compared without regard to case as iSCSI names are.
    pub name: String,
    /// False: it may not use the target, even where others may.
    pub admitted: bool,
    /// Where it may come from; none: from anywhere.
    pub networks: Vec<IpNetwork>,
    /// What it has to prove; none: nothing.
    pub chap: Option<Chap>,
    /// How much it may do.
    pub limit: Limit,
}

impl Initiator {
    /// One that may use the target from anywhere, without a proof or a limit.
    pub fn named(name: String) -> Self {
        Self { name, admitted: true, networks: Vec::new(), chap: None, limit: Limit::default() }
    }

    fn may_come_from(&self, address: Option<IpAddr>) -> bool {
        let within = |address| self.networks.iter().any(|network| network.contains(address));
        self.networks.is_empty() || address.is_some_and(within)
    }
}

/// Which initiators may log in to a target.
#[derive(Debug, Clone, Default)]
pub struct Acl {
    /// Those with a rule of their own.
    pub initiators: Vec<Arc<Initiator>>,
    /// Others may, from anywhere and without a proof.
    pub others: bool,
}

/// What an ACL says of an initiator at an address.
#[derive(Debug, Clone)]
pub enum Admission {
    /// It may not use the target.
    Refused,
    /// It may, like everybody.
    AsAnyone,
    /// It may, by this rule.
    By(Arc<Initiator>),
}

impl Acl {
    /// Every initiator.
    pub fn open() -> Self {
        Self { initiators: Vec::new(), others: true }
    }

    /// Looks the initiator up. An address that is not known lies in no network.
    pub fn admit(&self, initiator: &str, from: Option<IpAddr>) -> Admission {
        match self.rule(initiator) {
            Some(rule) if rule.admitted && rule.may_come_from(from) => Admission::By(rule.clone()),
            Some(_) => Admission::Refused,
            None if self.others => Admission::AsAnyone,
            None => Admission::Refused,
        }
    }

    /// True if a rule says that somebody who may use the target comes from this address.
    pub fn expects(&self, from: IpAddr) -> bool {
        self.initiators.iter().any(|rule| rule.admitted && rule.networks.iter().any(|n| n.contains(from)))
    }

    fn rule(&self, initiator: &str) -> Option<&Arc<Initiator>> {
        self.initiators.iter().find(|rule| rule.name.eq_ignore_ascii_case(initiator))
    }
}

/// Where a target has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// `host:port`, IPv6 in brackets.
    pub address: String,
    /// The initiator is to forget the old address.
    pub permanently: bool,
}

/// One target.
#[derive(Debug, Clone)]
pub struct Target {
    /// iSCSI name.
    pub name: String,
    /// TargetAlias, for people.
    pub alias: Option<String>,
    /// Where it is, each `host:port` with IPv6 in brackets; none: the address of the portal that was asked.
    pub addresses: Vec<String>,
    /// Where logins are sent on to; none: they are taken.
    pub moved: Option<Moved>,
    /// Who may use it.
    pub acl: Acl,
    /// Its units.
    pub luns: LunMap,
}

/// The targets of a portal.
#[derive(Debug, Clone)]
pub struct Portal {
    /// TargetPortalGroupTag.
    pub group_tag: u16,
    /// The targets.
    pub targets: Vec<Target>,
    /// How the names begin of targets that are not there now and will be. Who asks for one is told to come again (0301h);
    /// told that there is none (0203h), an initiator that logs in for the first time asks no more.
    pub away: Vec<String>,
}

impl Portal {
    /// The target with this name.
    pub fn find(&self, name: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.name.eq_ignore_ascii_case(name))
    }

    /// True for a target that is not there now and will be.
    pub(crate) fn is_away(&self, name: &str) -> bool {
        let begins = |with: &String| name.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with));
        self.away.iter().any(begins)
    }

    /// What discovery asks of an initiator: the proof that its targets ask for. One without a rule sees what everybody may
    /// use; one with a rule is held to it.
    pub(crate) fn admit_to_discovery(&self, initiator: &str, from: Option<IpAddr>) -> Admission {
        let mut rules = self.targets.iter().filter_map(|target| target.acl.rule(initiator)).peekable();
        if rules.peek().is_none() {
            return Admission::AsAnyone;
        }
        rules.find(|rule| rule.may_come_from(from)).map_or(Admission::Refused, |rule| Admission::By(rule.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_hold_by_name_and_by_address() {
        let mut host = Initiator::named("iqn.2026-01.invalid.example:Host".into());
        host.networks = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let barred = Initiator { admitted: false, ..Initiator::named("iqn.2026-01.invalid.example:barred".into()) };
        let mut acl = Acl { initiators: vec![Arc::new(host), Arc::new(barred)], others: false };
        let admit = |acl: &Acl, name: &str, from: Option<&str>| match acl
            .admit(&format!("iqn.2026-01.invalid.example:{name}"), from.map(|a| a.parse().unwrap()))
        {
            Admission::Refused => "refused",
            Admission::AsAnyone => "as anyone",
            Admission::By(_) => "by a rule",
        };
        for others in [false, true] {
            acl.others = others;
            for (name, from, says) in [
                ("host", Some("192.0.2.9"), "by a rule"),
                ("HOST", Some("::ffff:192.0.2.9"), "by a rule"),
                ("host", Some("2001:db8::1"), "by a rule"),
                ("host", Some("192.0.3.9"), "refused"),
                ("host", None, "refused"),
                ("barred", Some("192.0.2.9"), "refused"),
                ("other", None, if others { "as anyone" } else { "refused" }),
            ] {
                assert_eq!(admit(&acl, name, from), says, "{name} from {from:?}, others: {others}");
            }
        }
        for (from, expected) in [("192.0.2.9", true), ("192.0.3.9", false), ("::ffff:192.0.2.9", true)] {
            assert_eq!(acl.expects(from.parse().unwrap()), expected, "{from}");
        }
    }
}
