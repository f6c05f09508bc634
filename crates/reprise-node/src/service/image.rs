//! What a box says of a mirror: whether its source is heard, which moment the image shows, what can be done with it.
//! Pure. No version up to this one serves an image, and nobody is told otherwise.

use std::time::Duration;

use reprise_api::{ImageSource, ImageStatus, Name, Severity, utc};
use reprise_types::{Role, WallMicros};

use super::told::{Message, Told};
use super::words::Words;
use crate::group::Snapshot;

/// A source that is silent for so long is told. A shorter break heals by itself.
const SILENT_TOLD: Duration = Duration::from_secs(30);
/// A source that is silent for so long is more than a box that starts again.
const SILENT_GONE: Duration = Duration::from_secs(120);

/// What is known of the box at the other end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// A connection for commands stands.
    pub(super) connected: bool,
    /// Last sign of life, milliseconds since 1970.
    pub(super) last_unix_ms: Option<u64>,
}

/// A moment as people are told it.
pub(super) fn at(unix_ms: u64) -> String {
    format!("{} UTC", utc(unix_ms))
}

fn millis(wall: WallMicros) -> Option<u64> {
    Some(wall.get() / 1000).filter(|ms| *ms > 0)
}

/// When the source has ended the mirror; the inner one is none where that is not known.
pub(super) fn ended(snapshot: &Snapshot) -> Option<Option<u64>> {
    snapshot.meta.ended().map(millis)
}

/// Which moment the image shows, as a sentence.
fn holds(group: &Name, source: &str, complete: bool, moment: Option<u64>) -> String {
    match (complete, moment) {
        (false, _) => {
            format!("The first copy of {group} has not come to its end: what is here cannot be used.")
        }
        (true, Some(ms)) => {
            format!(
                "This box holds {group} as it was at {} by the clock of {source}, when the last write came.",
                at(ms)
            )
        }
        (true, None) => {
            format!("This box holds a whole image of {group}; when the last write in it was made is not known.")
        }
    }
}

/// The image of a mirror that runs.
pub(super) fn status(
    snapshot: &Snapshot,
    group: &Name,
    source: &str,
    heard: &Heard,
    words: Words,
) -> Option<ImageStatus> {
    let meta = &snapshot.meta;
    if meta.role() != Role::Mirror {
        return None;
    }
    let complete = meta.copy().is_none();
    let moment = snapshot.image_wall.and_then(millis);
    let holds = holds(group, source, complete, moment);
    let (from, text, what_to_do) = match (ended(snapshot), snapshot.link.streaming, heard.connected) {
        (Some(when), _, _) => {
            let when = when.map(|ms| format!(" at {}", at(ms))).unwrap_or_default();
            let text = format!(
                "{source} has ended this mirror{when}. {holds} Nothing follows any more, and this version cannot serve it."
            );
            (ImageSource::Ended, text, words.keep_or_give_up(group, source))
        }
        (None, true, _) if complete => {
            let text = format!(
                "{source} sends every write of {group}. Hosts use it there; this version cannot serve the image here."
            );
            (ImageSource::Sends, text, String::new())
        }
        (None, true, _) => {
            let text = format!(
                "The first copy of {group} from {source} runs: what is here cannot be used before it has come to its end."
            );
            (ImageSource::Sends, text, String::new())
        }
        (None, false, true) => {
            let text = format!(
                "{source} answers, but sends nothing of {group}. {holds} THIS VERSION CANNOT SERVE IT: hosts use {group} on {source} only."
            );
            (ImageSource::Answers, text, format!("Look at the group on {source}: what it says there is why."))
        }
        (None, false, false) => {
            let since = heard.last_unix_ms.map_or_else(
                || format!("{source} has not been heard since this box started."),
                |ms| format!("{source} has been silent since {}.", at(ms)),
            );
            let text = format!("{since} {holds} THIS VERSION CANNOT SERVE IT: there is no takeover.");
            let what = format!(
                "Bring {source} back with its disks: it goes on by itself. Until then do not delete, reset or re-pair this box: it \
                 may hold the last copy."
            );
            (ImageSource::Silent, text, what)
        }
    };
    let silent_since_unix_ms = heard.last_unix_ms.filter(|_| from == ImageSource::Silent);
    Some(ImageStatus { complete, moment_unix_ms: moment, source: from, silent_since_unix_ms, text, what_to_do })
}

/// How bad it is that nothing has come for so long.
fn weight(quiet: Duration, from: ImageSource) -> Option<Severity> {
    match from {
        ImageSource::Sends | ImageSource::Ended => None,
        _ if quiet < SILENT_TOLD => None,
        ImageSource::Silent if quiet >= SILENT_GONE => Some(Severity::Critical),
        _ => Some(Severity::Warning),
    }
}

/// The alert that goes with an image, if one does.
pub(super) fn alert(image: &ImageStatus, subject: &str, quiet: Duration) -> Option<Told> {
    let severity = weight(quiet, image.source)?;
    let (text, advice) = (image.text.as_str(), image.what_to_do.as_str());
    let message = match (image.source, severity) {
        (ImageSource::Silent, Severity::Critical) => Message::SourceGone { image: text, advice },
        (ImageSource::Silent, _) => Message::SourceSilent { image: text, advice },
        _ => Message::SourceAnswers { image: text, advice },
    };
    Some(message.about(subject))
}

#[cfg(test)]
mod tests {
    use reprise_engine::{GroupMeta, RoleMeta};

    use super::super::view::tests::{mirror_role, peer, snapshot};
    use super::*;
    use crate::group::LinkView;

    const MOMENT: u64 = 1_790_000_000_000;

    fn image(change: impl FnOnce(&mut GroupMeta, &mut LinkView), heard: Heard) -> ImageStatus {
        let mut mirror = snapshot(|m, l| {
            (m.role, m.peers) = (mirror_role(), vec![peer()]);
            change(m, l);
        });
        mirror.image_wall = Some(WallMicros::from_raw(MOMENT * 1000));
        let group = "vol1".parse().unwrap();
        status(&mirror, &group, "box-a", &heard, Words { appliance: true }).unwrap()
    }

    fn silent() -> Heard {
        Heard { connected: false, last_unix_ms: Some(MOMENT + 1000) }
    }

    #[test]
    fn a_silent_source_is_said_with_its_time_the_moment_and_what_must_not_be_done() {
        let image = image(|_, _| {}, silent());
        assert_eq!(
            image.text,
            "box-a has been silent since 2026-09-21 14:13:21 UTC. This box holds vol1 as it was at 2026-09-21 14:13:20 UTC by the clock \
             of box-a, when the last write came. THIS VERSION CANNOT SERVE IT: there is no takeover."
        );
        assert_eq!(
            image.what_to_do,
            "Bring box-a back with its disks: it goes on by itself. Until then do not delete, reset or re-pair this box: it may hold \
             the last copy."
        );
        let found = (image.complete, image.source, image.moment_unix_ms, image.silent_since_unix_ms);
        assert_eq!(found, (true, ImageSource::Silent, Some(MOMENT), Some(MOMENT + 1000)));
    }

    #[test]
    fn an_image_that_is_not_whole_is_not_said_to_be_one() {
        let copying = |m: &mut GroupMeta, _: &mut LinkView| m.role = RoleMeta::NEW_MIRROR;
        for heard in [silent(), Heard { connected: true, ..silent() }, Heard::default()] {
            let image = image(copying, heard);
            assert!(image.text.contains("cannot be used") && !image.text.contains("holds"), "{}", image.text);
            assert!(!image.complete);
        }
    }

    #[test]
    fn every_state_says_that_this_version_cannot_serve_it() {
        let streams = |_: &mut GroupMeta, l: &mut LinkView| l.streaming = true;
        let ends = |m: &mut GroupMeta, _: &mut LinkView| {
            m.role = RoleMeta::Mirror { copy: None, ended: Some(WallMicros::from_raw(MOMENT * 1000)) }
        };
        let answers = Heard { connected: true, ..silent() };
        let all = [
            image(streams, answers.clone()),
            image(ends, silent()),
            image(|_, _| {}, answers),
            image(|_, _| {}, silent()),
        ];
        let kinds = [ImageSource::Sends, ImageSource::Ended, ImageSource::Answers, ImageSource::Silent];
        assert_eq!(all.each_ref().map(|i| i.source), kinds);
        for image in &all {
            assert!(image.text.to_lowercase().contains("this version cannot serve"), "{}", image.text);
        }
        assert!(all[1].text.contains("box-a has ended this mirror at 2026-09-21 14:13:20 UTC."), "{}", all[1].text);
        assert!(all[1].what_to_do.contains("Give up an image"), "{}", all[1].what_to_do);
        assert_eq!(all.each_ref().map(|i| i.silent_since_unix_ms.is_some()), [false, false, false, true]);
    }

    #[test]
    fn a_source_has_no_image() {
        let source = snapshot(|m, _| m.peers = vec![peer()]);
        let group = "vol1".parse().unwrap();
        assert_eq!(status(&source, &group, "box-b", &silent(), Words { appliance: false }), None);
    }

    #[test]
    fn a_source_that_is_gone_is_critical_and_one_that_starts_again_is_not() {
        let check =
            |from, secs, expected| assert_eq!(weight(Duration::from_secs(secs), from), expected, "{from:?} {secs}");
        check(ImageSource::Silent, 29, None);
        check(ImageSource::Silent, 30, Some(Severity::Warning));
        check(ImageSource::Silent, 119, Some(Severity::Warning));
        check(ImageSource::Silent, 120, Some(Severity::Critical));
        check(ImageSource::Answers, 29, None);
        check(ImageSource::Answers, 3600, Some(Severity::Warning));
        check(ImageSource::Sends, 3600, None);
        check(ImageSource::Ended, 3600, None);
    }
}
