//! Pairing at its edges: how long a code is good, who may use it, what the confirmation covers.

use reprise_format::link::{PairRefusal, PairStart};
use reprise_link::pairing::{
    CODE_LIFETIME_MS, Channel, DialSession, Listener, PairError, PairIdentity, PairingCode, WRONG_TRIES_MAX,
};
use reprise_types::{BoxId, Mono};

use crate::common::*;

const CODE: &str = "4F7-K2M-9TX";

fn identity(n: u8) -> PairIdentity {
    PairIdentity { box_id: BoxId::from_raw([n; 16]), name: format!("box{n}"), fingerprint: [n; 32] }
}

fn code(text: &str) -> PairingCode {
    PairingCode::parse(text).unwrap()
}

fn listener(now: u64) -> Listener {
    Listener::new(ms(now), identity(2), code(CODE))
}

fn channel(peer: u8) -> Channel {
    Channel { exporter: [0xe; 32], peer_fingerprint: [peer; 32] }
}

/// The box `n` dials with `text` at `now`; what it says about itself may be `changed` on the way.
fn dial(
    listener: &mut Listener,
    now: Mono,
    n: u8,
    text: &str,
    changed: impl Fn(&mut PairStart),
) -> Result<PairIdentity, PairError> {
    let (dial, mut start) = DialSession::start(identity(n), &code(text), false, &[n; 32])?;
    changed(&mut start);
    let (session, share) = listener.start(now, &start, &channel(n), false, &[77; 32])?;
    let (dial, confirm) = dial.share(&share, &channel(2))?;
    let (prepared, confirm) = session.confirm(now, listener, &confirm)?;
    assert_eq!(dial.confirmed(&confirm)?, identity(2), "both have each other");
    Ok(prepared)
}

#[test]
fn a_code_is_good_until_the_end_of_its_time() {
    let mut listener = listener(1_000);
    let end = ms(1_000 + CODE_LIFETIME_MS);
    assert_eq!((listener.expires(), listener.used_by()), (end, None));
    assert_eq!(listener.code().display(), CODE);
    let last = ms(999 + CODE_LIFETIME_MS);
    assert_eq!((listener.check_open(last), listener.check_open(end)), (Ok(()), Err(PairError::Expired)));
    assert_eq!(dial(&mut listener, end, 1, CODE, |_| {}), Err(PairError::Expired));
    assert_eq!(dial(&mut listener, last, 1, CODE, |_| {}), Ok(identity(1)));
    assert_eq!(listener.used_by(), Some(identity(1).box_id));
}

#[test]
fn a_wrong_try_counts_and_the_right_code_after_two_still_works() {
    let mut listener = listener(0);
    for _ in 1..WRONG_TRIES_MAX {
        assert_eq!(dial(&mut listener, ms(1), 1, "000-000-000", |_| {}), Err(PairError::WrongCode));
        assert_eq!((listener.used_by(), listener.check_open(ms(1))), (None, Ok(())));
    }
    assert_eq!(dial(&mut listener, ms(1), 1, CODE, |_| {}), Ok(identity(1)));
    assert_eq!(dial(&mut listener, ms(1), 1, "000-000-000", |_| {}), Err(PairError::WrongCode));
    assert_eq!(listener.check_open(ms(1)), Err(PairError::Burnt));
    assert_eq!(dial(&mut listener, ms(1), 1, CODE, |_| {}), Err(PairError::Burnt), "also for who had used it");
}

/// What a box says about itself is covered by the confirmation: changed on the way, the code does not match.
#[test]
fn the_confirmation_covers_who_the_boxes_say_they_are() {
    type Change = fn(&mut PairStart);
    let cases: [(&str, Change); 2] =
        [("its id", |s| s.box_id = BoxId::from_raw([5; 16])), ("its name", |s| s.name = "box9".into())];
    for (name, change) in cases {
        assert_eq!(dial(&mut listener(0), ms(1), 1, CODE, change), Err(PairError::WrongCode), "{name}");
    }
    // The same in the other direction: the dialler does not believe a listener that was changed on the way.
    let mut listener = listener(0);
    let (dial, start) = DialSession::start(identity(1), &code(CODE), false, &[1; 32]).unwrap();
    let (session, mut share) = listener.start(ms(1), &start, &channel(1), false, &[2; 32]).unwrap();
    share.name = "another".into();
    let (_, confirm) = dial.share(&share, &channel(2)).unwrap();
    assert_eq!(session.confirm(ms(1), &mut listener, &confirm).err(), Some(PairError::WrongCode));
}

/// Two boxes that try at one time: the first to confirm has the code.
#[test]
fn a_code_is_bound_to_the_first_that_confirms() {
    let mut listener = listener(0);
    let begin = |n: u8| {
        let (dial, start) = DialSession::start(identity(n), &code(CODE), false, &[n; 32]).unwrap();
        let (session, share) = listener.start(ms(1), &start, &channel(n), false, &[9; 32]).unwrap();
        let (_, confirm) = dial.share(&share, &channel(2)).unwrap();
        (session, confirm)
    };
    let ((first, of_first), (second, of_second)) = (begin(1), begin(3));
    assert!(first.confirm(ms(1), &mut listener, &of_first).is_ok());
    assert_eq!(second.confirm(ms(1), &mut listener, &of_second).err(), Some(PairError::Used));
    assert!(first.confirm(ms(1), &mut listener, &of_first).is_ok(), "a lost answer is repeated");
    let late = ms(CODE_LIFETIME_MS);
    assert_eq!(first.confirm(late, &mut listener, &of_first).err(), Some(PairError::Expired));
    // The box's id alone does not make it the same one: its key counts too.
    let (_, start) = DialSession::start(identity(1), &code(CODE), false, &[1; 32]).unwrap();
    let other_key = listener.start(ms(1), &start, &channel(8), false, &[2; 32]);
    assert_eq!(other_key.err(), Some(PairError::Used));
}

#[test]
fn a_try_belongs_to_the_code_that_was_shown_when_it_began() {
    let listener = listener(0);
    let (dial, start) = DialSession::start(identity(1), &code(CODE), false, &[1; 32]).unwrap();
    let (session, share) = listener.start(ms(1), &start, &channel(1), false, &[2; 32]).unwrap();
    let (_, confirm) = dial.share(&share, &channel(2)).unwrap();
    let mut next = Listener::new(ms(5), identity(2), code(CODE));
    assert_eq!(session.confirm(ms(6), &mut next, &confirm).err(), Some(PairError::Expired));
    assert_eq!(next.check_open(ms(6)), Ok(()), "it does not count against the next one");
}

#[test]
fn a_box_does_not_pair_with_itself_from_either_end() {
    let listener = listener(0);
    let start = |n: u8| DialSession::start(identity(n), &code(CODE), false, &[n; 32]).unwrap();
    let refused = |n: u8, key: u8| listener.start(ms(1), &start(n).1, &channel(key), false, &[2; 32]).err();
    assert_eq!(refused(2, 1), Some(PairError::SelfPairing), "its id");
    assert_eq!(refused(1, 2), Some(PairError::SelfPairing), "its key");
    assert_eq!(refused(1, 1), None);
    let (dial, message) = start(1);
    let (_, mut share) = listener.start(ms(1), &message, &channel(1), false, &[2; 32]).unwrap();
    assert_eq!(dial.share(&share, &channel(1)).err(), Some(PairError::SelfPairing), "the dialler's own key");
    share.box_id = identity(1).box_id;
    assert_eq!(start(1).0.share(&share, &channel(2)).err(), Some(PairError::SelfPairing), "its own id");
}

#[test]
fn shares_are_different_for_every_seed_and_codes_never_show_in_a_log() {
    let share = |seed: u8| DialSession::start(identity(1), &code(CODE), false, &[seed; 32]).unwrap().1.share;
    assert_eq!(share(1), share(1));
    assert_ne!(share(1), share(2));
    let shown = format!("{:?} {:?}", code(CODE), listener(0));
    assert!(shown.contains("PairingCode(..)") && !shown.contains("4F7") && !shown.contains("9TX"), "{shown}");
}

#[test]
fn what_is_refused_is_understood_at_the_other_end() {
    use PairError::*;
    let same = [WrongCode, Expired, Burnt, Used, SelfPairing, NotListening, AlreadyPaired, Protocol];
    for error in same {
        assert_eq!(PairError::from_refusal(error.refusal()), error);
    }
    // What would help somebody in between is a wrong code to him.
    assert_eq!((CodeForm.refusal(), NotConfirmed.refusal()), (PairRefusal::WrongCode, PairRefusal::WrongCode));
    assert_eq!(BothListening.refusal(), PairRefusal::NotListening);
}
