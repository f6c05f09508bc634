//! The menus. A test walks them all and fails where a choice is not visited.

use super::text::{COLUMNS, column, fit};

/// A list of choices.
#[derive(Debug)]
pub struct Menu {
    /// What the screen is called.
    pub title: &'static str,
    /// The choices.
    pub items: &'static [Item],
    /// What stands above them.
    pub(super) about: About,
    /// Columns beside each other.
    columns: usize,
}

/// What stands above the choices of a menu.
#[derive(Debug, Clone, Copy)]
pub(super) enum About {
    Status,
    Volumes,
    Mirrors,
    Peers,
    Disks,
    Initiators,
    Network,
    Clock,
    Alerts,
    Messages,
    Logs,
    Admin,
    Power,
    Reset,
}

/// A choice.
#[derive(Debug)]
pub struct Item {
    /// What is typed for it.
    pub key: &'static str,
    /// What it says.
    pub text: &'static str,
    /// Where it leads.
    pub go: Go,
}

/// Where a choice leads.
#[derive(Debug, Clone, Copy)]
pub enum Go {
    /// To another menu.
    Menu(&'static Menu),
    /// To a dialog or a page.
    Do(Act),
}

macro_rules! acts {
    ($($name:ident,)*) => {
        /// What can be done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum Act { $($name,)* }
    };
}

acts! {
    PairListen, PairDial, PairCancel, PeerShow, PeerAddress, PeerShare, PeerForget,
    VolumeMirrored, VolumeCreate, VolumeResize, VolumeAccess, VolumeAdopt, VolumeRemove, VolumeErase,
    MirrorAdd, MirrorPause, MirrorResume, MirrorEnd, ImageGiveUp,
    DiskTake,
    InitiatorAdd, InitiatorRemove,
    Interface, Vlan, Bond, InterfaceForget, NameServers, NetworkKeep,
    TimeServers, TimeByHand,
    Alerts, AlertAck, Events, Jobs,
    WebhookAdd, WebhookRemove, MailSet, MailOff, MessageTest,
    LogDaemon, LogSystem, LogKernel,
    SupportHow, SupportWrite,
    Password, SessionsEnd, Name,
    Reboot, PowerOff,
    ResetSettings, ResetForget, ResetWipe,
    Plain, Help, Quit,
}

const fn act(key: &'static str, text: &'static str, act: Act) -> Item {
    Item { key, text, go: Go::Do(act) }
}

const fn sub(key: &'static str, text: &'static str, menu: &'static Menu) -> Item {
    Item { key, text, go: Go::Menu(menu) }
}

impl Menu {
    pub(super) const PROMPT: &'static str = "Number, then Enter (0 goes back): ";

    /// The choice called `key`.
    pub fn find(&self, key: &str) -> Option<&'static Item> {
        self.items.iter().find(|i| i.key.eq_ignore_ascii_case(key))
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let numbered: Vec<String> = self
            .items
            .iter()
            .filter(|i| i.key.bytes().all(|b| b.is_ascii_digit()))
            .map(|i| format!("{:>2} {}", i.key, i.text))
            .collect();
        let rows = numbered.len().div_ceil(self.columns);
        let width = COLUMNS / self.columns;
        let row = |r: usize| {
            let cells = (0..self.columns).filter_map(|c| numbered.get(c * rows + r));
            fit(cells.map(|cell| column(cell, width)).collect::<String>().trim_end(), COLUMNS)
        };
        std::iter::once("-".repeat(COLUMNS)).chain((0..rows).map(row)).collect()
    }
}

/// The status page.
pub static HOME: Menu = Menu {
    title: "Status",
    about: About::Status,
    columns: 3,
    items: &[
        act("1", "Pair: show a code", Act::PairListen),
        act("2", "Pair: enter a code", Act::PairDial),
        sub("3", "Volumes", &VOLUMES),
        sub("4", "Mirrors", &MIRRORS),
        sub("5", "Disks and pool", &DISKS),
        sub("6", "Hosts (initiators)", &INITIATORS),
        sub("7", "Network", &NETWORK),
        sub("8", "Clock", &CLOCK),
        sub("9", "Alerts and events", &ALERTS),
        sub("10", "Messages", &MESSAGES),
        sub("11", "Logs and support", &LOGS),
        sub("12", "Paired boxes", &PEERS),
        sub("13", "Name and password", &ADMIN),
        sub("14", "Restart, power off", &POWER),
        sub("15", "Reset", &RESET),
        act("t", "Plain or full screen", Act::Plain),
        act("?", "Help", Act::Help),
        act("q", "Quit", Act::Quit),
    ],
};

/// Volumes.
pub static VOLUMES: Menu = Menu {
    title: "Volumes",
    about: About::Volumes,
    columns: 2,
    items: &[
        act("1", "New volume, mirrored", Act::VolumeMirrored),
        act("2", "New volume, all choices", Act::VolumeCreate),
        act("3", "Take an existing disk as it is", Act::VolumeAdopt),
        act("4", "More room", Act::VolumeResize),
        act("5", "Read-only or writable", Act::VolumeAccess),
        act("6", "Remove, keep the content", Act::VolumeRemove),
        act("7", "Erase", Act::VolumeErase),
    ],
};

/// Groups and their mirrors.
pub static MIRRORS: Menu = Menu {
    title: "Mirrors",
    about: About::Mirrors,
    columns: 2,
    items: &[
        act("1", "Mirror a group", Act::MirrorAdd),
        act("2", "Pause a mirror", Act::MirrorPause),
        act("3", "Go on with a paused mirror", Act::MirrorResume),
        act("4", "End a mirror", Act::MirrorEnd),
        act("5", "Give up an image", Act::ImageGiveUp),
    ],
};

/// Paired boxes.
pub static PEERS: Menu = Menu {
    title: "Paired boxes",
    about: About::Peers,
    columns: 2,
    items: &[
        act("1", "Show all of one", Act::PeerShow),
        act("2", "Make the shown code void", Act::PairCancel),
        act("3", "Forget a box", Act::PeerForget),
        act("4", "Say where one is", Act::PeerAddress),
        act("5", "Say what one may mirror here", Act::PeerShare),
    ],
};

/// Disks.
pub static DISKS: Menu = Menu {
    title: "Disks and pool",
    about: About::Disks,
    columns: 2,
    items: &[act("1", "Make the pool on a disk", Act::DiskTake)],
};

/// Hosts.
pub static INITIATORS: Menu = Menu {
    title: "Hosts (initiators)",
    about: About::Initiators,
    columns: 2,
    items: &[act("1", "Let a host use the box", Act::InitiatorAdd), act("2", "Forget a host", Act::InitiatorRemove)],
};

/// The network.
pub static NETWORK: Menu = Menu {
    title: "Network",
    about: About::Network,
    columns: 2,
    items: &[
        act("1", "Addresses of an interface", Act::Interface),
        act("2", "New VLAN", Act::Vlan),
        act("3", "New bond", Act::Bond),
        act("4", "Forget settings, VLAN or bond", Act::InterfaceForget),
        act("5", "Name servers", Act::NameServers),
        act("6", "Keep the network as it is now", Act::NetworkKeep),
    ],
};

/// The clock.
pub static CLOCK: Menu = Menu {
    title: "Clock",
    about: About::Clock,
    columns: 2,
    items: &[act("1", "Ask time servers", Act::TimeServers), act("2", "Set by hand", Act::TimeByHand)],
};

/// Alerts and events.
pub static ALERTS: Menu = Menu {
    title: "Alerts and events",
    about: About::Alerts,
    columns: 2,
    items: &[
        act("1", "Alerts in full", Act::Alerts),
        act("2", "Acknowledge an alert", Act::AlertAck),
        act("3", "Events", Act::Events),
        act("4", "Jobs", Act::Jobs),
    ],
};

/// Messages.
pub static MESSAGES: Menu = Menu {
    title: "Messages",
    about: About::Messages,
    columns: 2,
    items: &[
        act("1", "New webhook", Act::WebhookAdd),
        act("2", "Remove a webhook", Act::WebhookRemove),
        act("3", "Set mail", Act::MailSet),
        act("4", "No mail", Act::MailOff),
        act("5", "Send a test message", Act::MessageTest),
    ],
};

/// Logs and support.
pub static LOGS: Menu = Menu {
    title: "Logs and support",
    about: About::Logs,
    columns: 2,
    items: &[
        act("1", "Log of the daemon", Act::LogDaemon),
        act("2", "Log of the system", Act::LogSystem),
        act("3", "Log of the kernel", Act::LogKernel),
        act("4", "Support bundle: how to get it", Act::SupportHow),
        act("5", "Support bundle: write it here", Act::SupportWrite),
    ],
};

/// Name and password.
pub static ADMIN: Menu = Menu {
    title: "Name and password",
    about: About::Admin,
    columns: 2,
    items: &[
        act("1", "Password of the administrator", Act::Password),
        act("2", "Name of the box", Act::Name),
        act("3", "End all sessions of the web page", Act::SessionsEnd),
    ],
};

/// Power.
pub static POWER: Menu = Menu {
    title: "Restart, power off",
    about: About::Power,
    columns: 2,
    items: &[act("1", "Restart", Act::Reboot), act("2", "Power off", Act::PowerOff)],
};

/// Reset.
pub static RESET: Menu = Menu {
    title: "Reset",
    about: About::Reset,
    columns: 1,
    items: &[
        act("1", "Settings only: network, clock, name, password, messages", Act::ResetSettings),
        act("2", "Forget: also peers, hosts, groups and volumes", Act::ResetForget),
        act("3", "Wipe: also the content of all disks of the box", Act::ResetWipe),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn every(menu: &'static Menu, found: &mut Vec<&'static Menu>) {
        found.push(menu);
        for item in menu.items {
            if let Go::Menu(below) = item.go {
                every(below, found);
            }
        }
    }

    #[test]
    fn keys_are_unique_and_texts_fit() {
        let mut menus = Vec::new();
        every(&HOME, &mut menus);
        assert_eq!(menus.len(), 14);
        for menu in menus {
            let mut keys = std::collections::BTreeSet::new();
            for item in menu.items {
                assert!(keys.insert(item.key), "{} {}", menu.title, item.key);
                assert!(item.text.len() + 4 <= COLUMNS / menu.columns, "{}", item.text);
            }
            assert!(menu.lines().iter().all(|l| l.len() <= COLUMNS));
        }
    }
}
