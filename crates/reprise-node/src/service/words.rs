//! Where a person finds what an advice names: an appliance has menus and no command line.

use reprise_api::Name;

/// What the rule of a host does not give on a mirror.
pub(super) fn not_served_here(group: &Name, source: &str) -> String {
    format!(
        "Group {group} is served by {source}, and not by this box, which keeps its mirror: the host has to be let in there as well"
    )
}

/// How advice is worded on this box, and for the other one of its pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Words {
    /// This box is an appliance.
    pub(super) appliance: bool,
}

impl Words {
    fn choose(self, menus: String, commands: String) -> String {
        if self.appliance { menus } else { commands }
    }

    /// How the image of a mirror is given up.
    pub(super) fn give_up(self, group: &Name) -> String {
        self.choose(
            "Mirrors, Give up an image at the console, or the page of the group in a browser".to_owned(),
            format!("reprise group delete {group}"),
        )
    }

    /// How a mirror is ended, on its source.
    pub(super) fn end_mirror(self, group: &Name, peer: &str) -> String {
        self.choose(
            "Mirrors, End a mirror at the console, or the page of the group in a browser".to_owned(),
            format!("reprise mirror remove {group} --to {peer}"),
        )
    }

    /// What may be done with an image that nothing follows any more.
    pub(super) fn keep_or_give_up(self, group: &Name, source: &str) -> String {
        format!(
            "Keep it, or give it up once nobody needs it: {}. While it is here, {source} cannot mirror {group} to this box again.",
            self.give_up(group)
        )
    }
}
