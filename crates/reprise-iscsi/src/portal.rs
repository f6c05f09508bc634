//! What a portal offers: targets, who may use them, and where they are.

use reprise_scsi::LunMap;

/// Which initiators may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acl {
    /// Every initiator.
    Open,
    /// Initiators with one of these names, compared without regard to case as iSCSI names are.
    Names(Vec<String>),
}

impl Acl {
    /// True if the initiator may use the target.
    pub fn allows(&self, initiator: &str) -> bool {
        match self {
            Self::Open => true,
            Self::Names(names) => names.iter().any(|name| name.eq_ignore_ascii_case(initiator)),
        }
    }
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
}

impl Portal {
    /// The target with this name.
    pub fn find(&self, name: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.name.eq_ignore_ascii_case(name))
    }
}
