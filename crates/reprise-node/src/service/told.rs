//! Everything that people are told, in one table: code, severity, text and what to do. Codes are stable; `docs/api.md` holds
//! the table as it is printed from here. Which conditions hold is decided in [`super::conditions`] and by whoever sees a thing
//! happen.

use reprise_api::Severity;
use reprise_types::{ByteLen, Sector, Seq};

/// How long a thing is told.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As long as it holds; when it begins or grows worse, as an event too.
    Alert,
    /// Once, when it happens.
    Event,
}

/// A line of the table. `{names}` in the two texts stand for what is known when it is told.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) code: &'static str,
    pub(crate) kind: Kind,
    pub(crate) severity: Severity,
    pub(crate) text: &'static str,
    pub(crate) what_to_do: &'static str,
}

/// What an event or alert is, without when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) code: &'static str,
    pub(crate) severity: Severity,
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) what_to_do: String,
}

macro_rules! messages {
    ($($kind:ident $severity:ident $code:literal $name:ident { $($field:ident: $type:ty),* } $text:literal, $what:literal;)*) => {
        /// A line of the table with what is known. Lines with the same code are the same thing in other words.
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Message<'a> {
            $($name { $($field: $type),* },)*
        }

        /// The table.
        #[cfg(test)]
        pub(crate) const ROWS: &[Row] = &[$(
            Row { code: $code, kind: Kind::$kind, severity: Severity::$severity, text: $text, what_to_do: $what },
        )*];

        impl Message<'_> {
            fn code_and_severity(&self) -> (&'static str, Severity) {
                match self {
                    $(Self::$name { .. } => ($code, Severity::$severity),)*
                }
            }

            #[allow(unused_variables, clippy::useless_format)]
            fn texts(&self) -> (String, String) {
                match self {
                    $(Self::$name { $($field),* } => (format!($text), format!($what)),)*
                }
            }
        }
    };
}

impl Message<'_> {
    /// Says it of a subject: `group NAME`, `volume NAME`, `peer NAME` or `box`.
    pub(crate) fn about(&self, subject: impl Into<String>) -> Told {
        let (code, severity) = self.code_and_severity();
        let (text, what_to_do) = self.texts();
        Told { code, severity, subject: subject.into(), text, what_to_do }
    }
}

messages! {
    Event Info "group-created" GroupCreated { group: &'a str } "Group {group} was made.", "";
    Event Info "group-deleted" GroupDeleted { group: &'a str } "Group {group} is taken away.", "";
    Alert Critical "group-not-started" HomesMissing { group: &'a str, why: &'a str }
        "Group {group} does not start: {why}", "Bring the device or file back as it was; the group then starts by itself.";
    Alert Critical "group-not-started" NotStarted { group: &'a str, why: &'a str }
        "Group {group} does not start: {why}",
        "Look after the disk of the cache; nothing of the group is overwritten meanwhile.";

    Event Info "volume-added" VolumeAdded { volume: &'a str, group: &'a str, lun: u16 }
        "Volume {volume} is part of group {group} as LUN {lun}.", "";
    Event Info "volume-resized" VolumeResized { volume: &'a str, size: u64 }
        "Volume {volume} has {size} bytes now; hosts have been told.", "";
    Event Info "volume-removed" VolumeRemoved { volume: &'a str, group: &'a str, home: &'a str, reach: &'a str }
        "Volume {volume} has left group {group}; {home} holds every write.{reach}", "";
    Event Info "volume-erased" VolumeErased { volume: &'a str } "Volume {volume} is erased.", "";

    Alert Critical "cache-full" CacheFull {}
        "The cache is full: hosts wait until there is room. Nothing is lost.",
        "Bring the mirror back or remove it; a larger cache gives more time.";
    Event Info "cache-free" CacheFree {} "The cache has room again.", "";
    Alert Warning "cache-filling" CacheFilling { percent: u64, when: &'a str }
        "The cache is filling: more than {percent} % used, full {when}.",
        "Look at the link and the mirror: writes come faster than they leave.";
    Alert Critical "index-full" IndexFull { mib: u64 }
        "The indexes of the journals have reached their memory, {mib} MiB: the cache counts as full.",
        "Bring mirrors back or remove them, so that journals shrink; or give limits.index more.";
    Event Info "pacing" Pacing {} "The cache fills: writes of the host are held back a little.", "";
    Event Info "pacing-ended" PacingEnded {} "Writes of the host are no longer held back.", "";

    Alert Critical "fenced" Fenced { why: &'a str }
        "The group is fenced: {why}. Hosts get errors; what was acknowledged is in the journal.",
        "Look after the disk of the cache, then: reprise group unfence, which reads the journal again.";
    Event Info "unfenced" Unfenced { seq: Seq, batches: u64, bytes: u64 }
        "The journal was read again up to record {seq} ({batches} batches, {bytes} bytes): nothing that was acknowledged is lost. The \
         group goes on.", "";
    Alert Critical "cache-failed" CacheFailed { why: &'a str }
        "The cache cannot take more: a segment of it cannot be prepared ({why}). It is tried again.",
        "Give the file system of the cache more room, or look after its disk.";
    Alert Critical "journal-rotten" JournalLost { first: Seq, last: Seq, applied: Seq }
        "Records {first} to {last} of the journal cannot be read and no peer holds them: they are lost, except where a home has them \
         (homes hold everything up to record {applied}).",
        "Put the disk of the cache right and try again: reprise group reattach. Else remove the mirror and add it again, for a new \
         first copy from the home.";
    Alert Critical "journal-rotten" JournalRotten { first: Seq, last: Seq }
        "Records {first} to {last} of the journal cannot be read; they are fetched from the peer.",
        "Nothing, if the link is up. Look after the disk of the cache.";
    Event Warning "journal-repaired" JournalRepaired { first: Seq, last: Seq }
        "Records {first} to {last} of the journal were unreadable and were fetched from the peer.",
        "Look after the disk of the cache: what rots once rots again.";
    Event Info "journal-readable" JournalReadable { first: Seq, last: Seq }
        "Records {first} to {last} of the journal can be read after all.", "";
    Event Critical "journal-unreadable" JournalUnreadable { seq: Seq }
        "The journal cannot be read at record {seq}.",
        "Look after the disk of the cache. The homes hold what was applied.";
    Alert Critical "home-failed" HomeFailed { why: &'a str }
        "A home is detached: {why}. Its writes stay in the cache, from where they are read; when the cache is full, hosts wait.",
        "Look after the disk of the home, then: reprise group reattach.";
    Event Info "home-attached" HomeAttached {} "The homes are in use again.", "";
    Event Critical "home-unreadable" HomeUnreadable { volume: &'a str, sector: Sector, fault: &'a str }
        "Volume {volume} cannot be read at sector {sector}: {fault}.",
        "Look after the disk of the home. The sector can be read again once a host has written it.";
    Alert Critical "home-too-small" HomeTooSmall { volume: &'a str, bytes: ByteLen, why: &'a str }
        "The source has given volume {volume} {bytes} bytes, and its home here has no room for them{why}. Nothing more is taken from \
         the source until it has.",
        "Give the data half of this box more room: it is tried again by itself.";
    Alert Critical "read-errors" ReadErrors { reads: u64 }
        "At least {reads} reads have failed since the start: hosts got errors, never wrong data.",
        "See the events for where, and look after the disk.";

    Event Info "link-up" LinkUp { why: &'a str } "The link is up: {why}.", "";
    Event Info "link-down" LinkDown {} "The link is down; it is tried again by itself.", "";
    Alert Warning "link-down" MirrorAway { how: &'a str, peer: &'a str }
        "{how} The cache of this box takes the writes of the hosts.",
        "Look at {peer} and at the network between the boxes; it goes on by itself.";
    Alert Warning "link-down" SourceAnswers { image: &'a str, advice: &'a str } "{image}", "{advice}";
    Alert Warning "source-silent" SourceSilent { image: &'a str, advice: &'a str } "{image}", "{advice}";
    Alert Critical "source-silent" SourceGone { image: &'a str, advice: &'a str } "{image}", "{advice}";
    Event Warning "link-fault" LinkFault { why: &'a str }
        "The link broke: {why}", "If it comes again, look whether both boxes run a current version.";
    Alert Critical "link-stopped" LinkStopped { why: &'a str, advice: &'a str }
        "The link of the group has stopped: {why}.", "{advice}";
    Alert Warning "link-stalled" NoCredit {}
        "The link is up and the mirror takes nothing more: its cache is full, or its disk stands still.",
        "Look at the mirror's box: its alerts, its cache and its disks.";
    Alert Warning "link-stalled" ComesAndGoes { times: u64, peer: &'a str }
        "The link comes up and breaks again (at least {times} times), and nothing of what the mirror lacks arrives.",
        "Most likely large packets are lost on the way: a part of the path takes smaller packets than this box sends (its MTU), and the \
         messages that say so are filtered. Try on a computer beside this box: ping -M do -s 1472 to {peer}; if it fails and a smaller \
         -s passes, set the largest packet of the interface to what passes plus 28, or let the path be probed (Linux: sysctl \
         net.ipv4.tcp_mtu_probing=1; the appliance does). Else look for a firewall or a line that drops what it is given.";
    Alert Warning "link-stalled" NothingArrives { peer: &'a str }
        "The link is up, and nothing of what the mirror lacks arrives.",
        "Most likely large packets are lost on the way: a part of the path takes smaller packets than this box sends (its MTU), and the \
         messages that say so are filtered. Try on a computer beside this box: ping -M do -s 1472 to {peer}; if it fails and a smaller \
         -s passes, set the largest packet of the interface to what passes plus 28, or let the path be probed (Linux: sysctl \
         net.ipv4.tcp_mtu_probing=1; the appliance does). Else look for a firewall or a line that drops what it is given.";
    Alert Warning "link-stalled" Flaps { peer: &'a str }
        "The link breaks again and again; data move only in between.",
        "Look at the network between this box and {peer}: cables, switches, a firewall with short time-outs, a crowded line.";

    Event Info "mirror-added" MirrorAdded { group: &'a str, peer: &'a str, mind: &'a str }
        "Group {group} is mirrored to {peer}.{mind}", "";
    Event Info "mirror-removed" MirrorRemoved { group: &'a str, peer: &'a str }
        "Group {group} is no longer mirrored to {peer}.", "";
    Event Warning "mirror-removed" MirrorRemovedUntold { group: &'a str, peer: &'a str, why: &'a str }
        "Group {group} is no longer mirrored to {peer}.",
        "{peer} has not taken note ({why}), and learns of it at the next contact. Its image stays.";
    Event Info "mirror-paused" MirrorPaused { group: &'a str } "The mirror of {group} is paused.", "";
    Event Info "mirror-resumed" MirrorResumed { group: &'a str } "The mirror of {group} is going on.", "";
    Event Info "mirror-paused" PausedThere { peer: &'a str, group: &'a str } "{peer} has paused the mirror of group {group}.", "";
    Event Info "mirror-resumed" ResumedThere { peer: &'a str, group: &'a str } "{peer} has resumed the mirror of group {group}.", "";
    Event Info "copy-complete" CopyComplete {} "The first copy is complete; the mirror is usable.", "";
    Event Critical "copy-restarted" CopyRestarted {}
        "The source has lost records that the first copy contained already. The copy begins again by itself.",
        "Check the disk of the source's cache: it was rolled back, or lost what it had reported as written. Hosts may lack what they \
         wrote last.";
    Alert Critical "mirror-differs" MirrorDiffers { seq: Seq, left: u64, unreadable: u64 }
        "The mirror differs from its source at record {seq}: {left} bytes, and {unreadable} bytes could not be read.",
        "Look after the disks of both boxes, then: reprise verify --repair.";
    Alert Critical "mirror-not-open" MirrorNotOpen { trouble: &'a str }
        "{trouble}.", "Look at the alerts of the mirror's box: it says why the group does not start there.";
    Alert Critical "mirror-fenced" MirrorFenced { trouble: &'a str }
        "{trouble}.", "Look after the disk of the mirror's cache, then on that box: reprise group unfence.";
    Alert Critical "mirror-home-failed" MirrorHomeFailed { trouble: &'a str }
        "{trouble}.",
        "Look after the disk of the mirror's home, then on that box: reprise group reattach. What the mirror has received meanwhile is \
         in its cache; when that is full, this box's cache takes the writes.";
    Alert Critical "mirror-journal-rotten" MirrorJournalRotten { trouble: &'a str }
        "{trouble}.",
        "Look after the disk of the mirror's cache. What is lost there comes back only with a new first copy: remove the mirror and add \
         it again.";
    Event Info "mirror-created" MirrorCreated { group: &'a str, peer: &'a str }
        "Group {group} is mirrored to this box from {peer}.", "";
    Event Info "mirror-detached" MirrorDetached { group: &'a str, source: &'a str, advice: &'a str }
        "{source} has ended the mirror of group {group} on this box. The image stays.", "{advice}";
    Event Warning "mirror-refused" MirrorRefused { group: &'a str, peer: &'a str, share: &'a str }
        "{peer} asked for room for group {group} and was refused: it may have {share} here.",
        "If it is to have more: reprise peer share {peer} --mirrors yes --groups all --space all";

    Event Info "paired" Paired { peer: &'a str } "Paired with {peer}.", "";
    Event Info "peer-removed" PeerRemoved { peer: &'a str } "Peer {peer} and its key are forgotten.", "";
    Event Info "peer-forgot-us" PeerGone { peer: &'a str }
        "{peer} has removed this box from its peers, and is removed here too.", "";
    Alert Warning "peer-forgot-us" PeerForgotUs { peer: &'a str }
        "{peer} has removed this box from its peers; groups here still name it.",
        "End the mirrors to it and give up its images here when they are not needed; pair again if it was a mistake.";
    Alert Critical "peer-other-pool" PeerOtherPool { peer: &'a str, groups: &'a str }
        "{peer} has come with another pool, which knows nothing of {groups}. The images here may be the last copy.",
        "Do not give them up. Bring the disks that {peer} had back: they go on by themselves.";
    Alert Warning "peer-slower" PeerSlower { peer: &'a str }
        "The cache of {peer} writes at less than half the rate of this box's.",
        "At full speed its mirrors fall behind: give it a faster disk, or expect the cache to fill.";
    Alert Warning "clock-offset" ClockOffset { peer: &'a str, secs: &'a str }
        "The clock of {peer} differs from this box's by {secs} s.", "Set the clocks of both boxes (NTP).";
    Event Warning "events-left-out" EventsLeftOut { peer: &'a str, code: &'a str }
        "{peer} makes more events ({code}) than any use of a box does. All but one a minute are left out.",
        "Look at what is done there. A box in wrong hands is forgotten with: reprise peer remove.";

    Alert Warning "no-password" NoPassword {}
        "The box has no password: its web console serves nobody.",
        "Set one in a browser, with the code that the serial console and the screen of the box show.";
    Event Info "job-ended" JobDone {} "Job done.", "";
    Event Info "job-ended" JobCancelled {} "Job cancelled.", "";
    Event Warning "job-ended" JobFailed { why: &'a str, advice: &'a str } "Job failed: {why}", "{advice}";
    Event Warning "notify-failed" NotifyFailed { to: &'a str, why: &'a str }
        "A message to {to} did not arrive: {why}.", "it is tried again by itself";
    Event Warning "notify-failed" NotifyGivenUp { to: &'a str, why: &'a str }
        "A message to {to} did not arrive: {why}.", "it is given up; try: reprise notify test";
    Event Warning "strangers-full" StrangersFull { how: &'a str }
        "{how}", "find out what runs at that address, or keep it from the port";
}

#[cfg(test)]
mod tests {
    use reprise_api::strangers::Full;

    use super::super::conditions;
    use super::*;

    const BEGIN: &str = "<!-- What people are told: printed from the table of reprise-node, service/told.rs. -->\n";
    const END: &str = "<!-- End of the table. -->\n";

    fn printed() -> String {
        let mut out = String::from("| code | severity | as | text | what to do |\n|---|---|---|---|---|\n");
        for row in ROWS {
            let kind = match row.kind {
                Kind::Alert => "alert",
                Kind::Event => "event",
            };
            let severity = format!("{:?}", row.severity).to_lowercase();
            out += &format!("| `{}` | {severity} | {kind} | {} | {} |\n", row.code, row.text, row.what_to_do);
        }
        out.replace("|  |", "| |")
    }

    /// With `REPRISE_WRITE_DOCS` set it writes the table.
    #[test]
    fn the_page_has_the_table_as_it_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (table, after) = rest.split_once(END).unwrap();
        if std::env::var_os("REPRISE_WRITE_DOCS").is_some() {
            std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", printed())).unwrap();
            return;
        }
        assert_eq!(table, printed(), "run this test with REPRISE_WRITE_DOCS=1");
    }

    #[test]
    fn a_message_has_its_texts_filled_in() {
        let told = Message::MirrorRemovedUntold { group: "pg", peer: "turin", why: "no way" }.about("group pg");
        let Told { code, severity, subject, text, what_to_do } = told;
        assert_eq!((code, severity, subject.as_str()), ("mirror-removed", Severity::Warning, "group pg"));
        assert_eq!(text, "Group pg is no longer mirrored to turin.");
        assert!(what_to_do.starts_with("turin has not taken note (no way), and"), "{what_to_do}");
    }

    #[test]
    fn codes_are_kebab_case_and_what_is_severe_says_what_to_do() {
        for row in ROWS {
            assert!(row.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", row.code);
            let quiet = row.kind == Kind::Event && row.severity == Severity::Info;
            assert!(quiet || !row.what_to_do.is_empty(), "{}", row.code);
            assert!(!row.text.contains('|') && !row.what_to_do.contains('|'), "{} breaks the page's table", row.code);
        }
    }

    #[test]
    fn what_the_listeners_log_alone_is_the_same() {
        let Told { code, what_to_do, .. } = Message::StrangersFull { how: "" }.about("box");
        assert_eq!((code, what_to_do.as_str()), (Full::CODE, Full::WHAT_TO_DO));
    }

    #[test]
    fn what_conditions_decide_is_an_alert() {
        for code in conditions::OF_GROUP.iter().chain(&conditions::OF_BOX) {
            assert!(ROWS.iter().any(|row| row.code == *code && row.kind == Kind::Alert), "{code}");
        }
    }
}
