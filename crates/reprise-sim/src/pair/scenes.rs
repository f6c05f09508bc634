//! Scenes: troubles that follow each other closely, in moments that chance alone seldom hits. A bug that needs a region
//! of a first copy, a cut and an operation that hangs, all within a second, is found by the plans that have these.

use crate::Rng;
use crate::pair::plan::{Hanging, HostAction, Item, MS, SEC, Trouble, What, host_action};

/// The troubles of a scene from its beginning on, and when hosts are busy in it (from, to).
struct Scene {
    troubles: Vec<(u64, Trouble)>,
    busy: (u64, u64),
    heavy: bool,
    /// Hosts read what was written last again and again.
    reads: bool,
}

fn heard(rng: &mut Rng) -> Option<u64> {
    Some(rng.below(20) * MS)
}

fn cut(rng: &mut Rng) -> Trouble {
    Trouble::Cut(heard(rng), heard(rng))
}

/// A first copy, disturbed, and again when it goes on.
fn copying(rng: &mut Rng) -> Scene {
    let mut troubles = vec![(0, Trouble::Emptied)];
    let ambush = |rng: &mut Rng| {
        let mut troubles = Vec::new();
        let time = rng.range(50, 1_500) * MS;
        let at = time * rng.range(1, 8) / 8;
        let hangs = |from, n, what| (0..4).map(move |_| (from, Trouble::Hang(n, what, time)));
        match rng.below(4) {
            0 => {
                // Regions read for a connection that is gone when they come.
                troubles.extend(hangs(0, 0, Hanging::HomeRead).chain(hangs(at, 0, Hanging::HomeRead)));
                troubles.push((at, cut(rng)));
            }
            1 => {
                // Regions written for a connection that is gone when they are there.
                let from = at >> rng.below(6);
                troubles.extend(hangs(from, 1, Hanging::HomeWrite).take(2));
                troubles.push((from + at, cut(rng)));
            }
            _ => {}
        }
        for _ in 0..rng.range(1, 4) {
            // From a moment up to some seconds: copies take so long.
            let at = (rng.range(1, 1_000) * MS) >> rng.below(10) << rng.below(3);
            let time = rng.range(100, 3_000) * MS;
            let trouble = match rng.below(12) {
                0 | 1 => Trouble::Hang(1, Hanging::HomeWrite, time),
                2 => Trouble::Hang(0, Hanging::HomeRead, time),
                3 => Trouble::Hang(0, Hanging::CacheWrite, time),
                4 => Trouble::Slow(1, 300, time),
                5 => Trouble::PowerCut(1, rng.range(1, 300) * MS),
                6 => Trouble::Soon(rng.below(2) as usize, rng.below(12)),
                7 => Trouble::Kill(rng.below(2) as usize, rng.range(1, 300) * MS),
                _ => cut(rng),
            };
            troubles.push((at, trouble));
        }
        Trouble::Ambush(troubles)
    };
    for time in [0, 8 * SEC, 9 * SEC] {
        troubles.push((time, ambush(rng)));
    }
    Scene { troubles, busy: (0, 12 * SEC), heavy: rng.one_in(2), reads: false }
}

/// Operations hang across a cut of the line, or until the power goes.
fn hanging(rng: &mut Rng) -> Scene {
    let n = rng.below(2) as usize;
    let all = [
        Hanging::HomeWrite,
        Hanging::HomeRead,
        Hanging::CacheWrite,
        Hanging::CacheRead,
        Hanging::Superblock,
        Hanging::Trim,
    ];
    let what = all[rng.below(6) as usize];
    let time = rng.range(200, 4_000) * MS;
    let mut troubles = vec![(0, Trouble::Hang(n, what, time))];
    if what == Hanging::Trim {
        // Long enough for what waits for it to be written over, were it not waited for.
        troubles.push((time * 7 / 8, Trouble::PowerCut(n, 50 * MS)));
        return Scene { troubles, busy: (0, time), heavy: true, reads: false };
    }
    for _ in 0..rng.range(1, 3) {
        let end = match rng.below(4) {
            0 | 1 => cut(rng),
            2 => Trouble::PowerCut(n, rng.range(1, 300) * MS),
            _ => Trouble::Soon(n, rng.below(6)),
        };
        troubles.push((rng.range(10, time / MS) * MS, end));
    }
    Scene { troubles, busy: (0, time), heavy: rng.one_in(2), reads: false }
}

/// The cache fills behind an outage, with reads that hang; then everything is drained and reused.
fn crowded(rng: &mut Rng) -> Scene {
    let outage = rng.range(1_000, 6_000) * MS;
    let mut troubles = vec![(0, Trouble::Outage(outage))];
    for _ in 0..3 {
        let at = outage + rng.below(2_000) * MS;
        let what = [Hanging::CacheRead, Hanging::Trim, Hanging::Superblock][rng.below(3) as usize];
        troubles.push((at, Trouble::Hang(rng.below(2) as usize, what, rng.range(500, 4_000) * MS)));
    }
    if rng.one_in(2) {
        let at = outage + rng.range(200, 4_000) * MS;
        troubles.push((at, Trouble::PowerCut(rng.below(2) as usize, 50 * MS)));
    }
    Scene { troubles, busy: (0, outage + 4 * SEC), heavy: true, reads: false }
}

/// Reads of the journal that hang until what they read has been applied, trimmed and written over; or that find rot there,
/// which is put right from the other box.
fn outlived(rng: &mut Rng) -> Scene {
    let n = if rng.one_in(3) { 1 } else { 0 };
    let round = rng.range(100, 1_500) * MS;
    let mut troubles = vec![(0, Trouble::Hang(n, Hanging::HomeWrite, round))];
    if rng.one_in(2) {
        troubles.push((rng.below(round), Trouble::Hang(n, Hanging::CacheRead, round + rng.range(500, 5_000) * MS)));
    } else {
        troubles.push((rng.below(round), Trouble::RotRead(n)));
        troubles.push((MS, Trouble::Hang(n, Hanging::Rewrite, round + rng.range(500, 5_000) * MS)));
    }
    Scene { troubles, busy: (0, 4 * SEC), heavy: !rng.one_in(3), reads: true }
}

/// Handshakes whose boxes go off in the middle.
fn handshakes(rng: &mut Rng) -> Scene {
    let mut troubles = Vec::new();
    for i in 0..rng.range(2, 5) {
        let at = (i * 1_500 + rng.below(300)) * MS;
        troubles.push((at, cut(rng)));
        let n = rng.below(2) as usize;
        if rng.one_in(2) {
            troubles.push((at + MS, Trouble::Hang(n, Hanging::Superblock, rng.range(50, 1_500) * MS)));
        }
        let off = match rng.below(3) {
            0 => Trouble::PowerCut(n, rng.range(1, 100) * MS),
            _ => Trouble::Soon(n, rng.below(6)),
        };
        troubles.push((at + rng.range(2, 1_400) * MS, off));
    }
    Scene { troubles, busy: (0, 6 * SEC), heavy: false, reads: false }
}

/// The source loses what its mirror holds, and writes more than that before they meet again.
fn forked(rng: &mut Rng) -> Scene {
    let lying = rng.range(200, 2_000) * MS;
    let outage = rng.range(5_000, 20_000) * MS;
    let troubles = if rng.one_in(2) {
        vec![(0, Trouble::Lying(0, lying)), (lying - 50 * MS, Trouble::Outage(outage))]
    } else {
        vec![(lying, Trouble::Outage(outage)), (lying + 30 * MS, Trouble::Older(0, lying))]
    };
    Scene { troubles, busy: (0, lying + outage / 2), heavy: false, reads: false }
}

/// In the middle of a first copy the source loses records that regions already contain and the mirror's journal does not.
fn forgotten(rng: &mut Rng) -> Scene {
    let hang = |at, what, time| (at, Trouble::Hang(1, what, time));
    // The copy begins within some seconds and stands still, until the line is gone for a while.
    let begins = (0..2).map(|_| hang(0, Hanging::HomeWrite, 8 * SEC)).collect();
    // It goes on from what the source holds by then. Some regions arrive; nothing becomes durable in the mirror's journal.
    let from = (rng.range(1, 2_000) * MS) >> rng.below(10);
    let mut goes_on: Vec<_> = (0..3).map(|_| hang(0, Hanging::CacheWrite, 20 * SEC)).collect();
    goes_on.extend((0..3).map(|_| hang(from, Hanging::HomeWrite, 20 * SEC)));
    // Then the source has the disk that it had while the line was gone.
    let (gone, outage) = (rng.range(6, 9) * SEC, rng.range(4, 7) * SEC);
    let lost = gone + outage + rng.range(1_000, 5_000) * MS;
    let ago = lost - gone - rng.below(outage);
    let troubles = vec![
        (0, Trouble::Emptied),
        (0, Trouble::Ambush(begins)),
        (gone, cut(rng)),
        (gone, Trouble::Outage(outage)),
        (gone + SEC, Trouble::Ambush(goes_on)),
        (lost, Trouble::Older(0, ago)),
        (lost + rng.below(50) * MS, Trouble::PowerCut(1, rng.range(1, 300) * MS)),
    ];
    Scene { troubles, busy: (0, lost + 4 * SEC), heavy: rng.one_in(2), reads: false }
}

/// A first copy to a mirror whose home is slow. Its last region is read when hosts have written a lot, so that home is a
/// mixture up to there when the copy ends; what it has applied by then is little.
fn slow_home(rng: &mut Rng) -> Scene {
    let reading = rng.range(8, 12) * SEC;
    let mut copy: Vec<_> = (0..4).map(|_| (0, Trouble::Hang(0, Hanging::HomeRead, reading))).collect();
    copy.push((0, Trouble::SlowHome(1, rng.range(500, 2_000), reading + rng.range(20, 40) * SEC)));
    if rng.one_in(2) {
        // And again, from what the superblock says.
        let n = if rng.one_in(3) { 0 } else { 1 };
        copy.push((reading + rng.range(1_000, 20_000) * MS, Trouble::PowerCut(n, rng.range(1, 300) * MS)));
    }
    let troubles = vec![(0, Trouble::Emptied), (0, Trouble::Ambush(copy))];
    Scene { troubles, busy: (SEC, reading + 6 * SEC), heavy: true, reads: false }
}

/// Adds a first copy to a slow home to a plan of this length.
pub(super) fn add_slow_home(rng: &mut Rng, items: &mut Vec<Item>, length: u64) {
    let scene = slow_home(rng);
    let begin = length / 4 + rng.below(length / 4);
    play(rng, items, scene, begin, length);
}

/// A volume gets more room and its unit another state while the superblock of a box is slow to be written; then that box goes
/// off. Or the mirror has no room when the size comes.
fn growing(rng: &mut Rng) -> (Scene, Vec<(u64, HostAction)>) {
    let volume = rng.below(2) as u16;
    let time = rng.range(300, 3_000) * MS;
    let mut troubles = Vec::new();
    if rng.one_in(4) {
        troubles.push((0, Trouble::NoRoom(time * 2)));
    } else {
        let n = rng.below(2) as usize;
        // One for each version that may be on its way when the record comes.
        troubles.extend((0..rng.range(1, 4)).map(|_| (0, Trouble::Hang(n, Hanging::Superblock, time))));
        let off = match rng.below(3) {
            0 => Trouble::Kill(n, rng.range(1, 300) * MS),
            _ => Trouble::PowerCut(n, rng.range(1, 300) * MS),
        };
        troubles.push((time * rng.range(2, 8) / 8, off));
    }
    let at = time * rng.below(4) / 8;
    let more = rng.range(30, 200);
    let mut actions = vec![(at, HostAction::Resize(volume, more)), (at + rng.below(20) * MS, HostAction::Unit(volume))];
    if rng.one_in(2) {
        actions.reverse();
    }
    (Scene { troubles, busy: (0, time * 2), heavy: rng.one_in(2), reads: false }, actions)
}

/// Adds volumes that get more room to a plan of this length.
pub(super) fn add_growing(rng: &mut Rng, items: &mut Vec<Item>, length: u64) {
    let count = rng.range(4, 8);
    let room = length * 8 / 10 / count;
    for i in 0..count {
        let begin = length / 8 + i * room + rng.below(room / 4);
        let (scene, actions) = growing(rng);
        for (at, action) in actions {
            items.push(Item { at: (begin + at).min(length), what: What::Host(action) });
        }
        play(rng, items, scene, begin, length);
    }
}

/// Adds scenes to a plan of this length; a fork ends most runs and is the last.
pub(super) fn add(rng: &mut Rng, items: &mut Vec<Item>, length: u64) {
    let count = rng.range(3, 6);
    let room = length * 9 / 10 / count;
    let kinds: [fn(&mut Rng) -> Scene; 5] = [copying, hanging, crowded, handshakes, outlived];
    let favourite = kinds[rng.below(5) as usize];
    for i in 0..count {
        let last = i + 1 == count;
        let scene = match rng.below(4) {
            0 if last => forked(rng),
            0 | 1 => kinds[rng.below(5) as usize](rng),
            _ => favourite(rng),
        };
        let begin = length / 10 + i * room + rng.below(room / 4);
        play(rng, items, scene, begin, length);
    }
}

/// Adds a fork near the end of a plan of this length: it ends most runs.
pub(super) fn add_fork(rng: &mut Rng, items: &mut Vec<Item>, length: u64) {
    let scene = forked(rng);
    let begin = length * 7 / 10 + rng.below(length / 10);
    play(rng, items, scene, begin, length);
}

/// Adds a source that forgets in a first copy to a plan of this length.
pub(super) fn add_forgotten(rng: &mut Rng, items: &mut Vec<Item>, length: u64) {
    let scene = forgotten(rng);
    let begin = length / 4 + rng.below(length / 4);
    play(rng, items, scene, begin, length);
}

fn play(rng: &mut Rng, items: &mut Vec<Item>, scene: Scene, begin: u64, length: u64) {
    for (at, trouble) in scene.troubles {
        items.push(Item { at: (begin + at).min(length), what: What::Trouble(trouble) });
    }
    for _ in 0..rng.range(30, 120) {
        let at = begin + rng.range(scene.busy.0, scene.busy.1);
        let mut action = host_action(rng, scene.heavy);
        if scene.reads && rng.one_in(3) {
            action = HostAction::Read(rng.below(2) as u16, rng.below(200), rng.range(1, 56));
        }
        items.push(Item { at: at.min(length), what: What::Host(action) });
    }
}
