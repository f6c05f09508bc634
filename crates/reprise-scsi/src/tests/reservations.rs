//! Reservations against the written tables of SPC-4 (section 5.13) and SPC-2.

use reprise_types::{InitiatorPort, ReservationType, UnitState};

use crate::control::Changed;
use crate::*;

fn port(n: u8) -> InitiatorPort {
    InitiatorPort::new("iqn.2026-01.invalid.example:Host", [0, 0, 0, 0, 0, n])
}

fn try_out(control: &Control, n: u8, action: ReserveAction, key: u64, action_key: u64) -> Result<Changed, ScsiError> {
    let out = ReserveOut { action, key, action_key };
    control.apply(&Change { port: port(n), relative_port: 1, kind: ChangeKind::Persistent(out) })
}

/// Does it, and gives who is told what.
fn out(control: &mut Control, n: u8, action: ReserveAction, key: u64, action_key: u64) -> Vec<(u8, UnitAttention)> {
    let changed = try_out(control, n, action, key, action_key).unwrap();
    *control = changed.control;
    let number = |who: &InitiatorPort| (0..10).find(|n| port(*n) == *who).unwrap();
    changed.attentions.iter().map(|(who, what)| (number(who), *what)).collect()
}

fn register(control: &mut Control, n: u8, key: u64) {
    assert_eq!(out(control, n, ReserveAction::Register, 0, key), []);
}

const CONFLICT: Result<Changed, ScsiError> = Err(ScsiError::ReservationConflict);

/// SPC-4, table 63: what holder, other registrants and strangers may do, by type.
#[test]
fn who_may_do_what() {
    use ReservationType as T;
    // (type, registrant reads, registrant changes, stranger reads); holders may do all, strangers never change.
    let table = [
        (T::WriteExclusive, true, false, true),
        (T::ExclusiveAccess, false, false, false),
        (T::WriteExclusiveRegistrantsOnly, true, true, true),
        (T::ExclusiveAccessRegistrantsOnly, true, true, false),
        (T::WriteExclusiveAllRegistrants, true, true, true),
        (T::ExclusiveAccessAllRegistrants, true, true, false),
    ];
    for (kind, registrant_reads, registrant_changes, stranger_reads) in table {
        let mut control = Control::default();
        register(&mut control, 1, 11);
        register(&mut control, 2, 22);
        out(&mut control, 1, ReserveAction::Reserve(kind), 11, 0);
        let may = |n, access| control.check(&port(n), access, false).is_ok();
        assert!(may(1, Access::Read) && may(1, Access::Change), "{kind:?}");
        assert_eq!((may(2, Access::Read), may(2, Access::Change)), (registrant_reads, registrant_changes), "{kind:?}");
        assert_eq!((may(3, Access::Read), may(3, Access::Change)), (stranger_reads, false), "{kind:?}");
        assert!((1..4).all(|n| may(n, Access::Free) && may(n, Access::Own)), "{kind:?}");
        assert_eq!((control.is_holder(&port(1)), control.is_holder(&port(2))), (true, kind.all_registrants()));
    }
}

#[test]
fn keys_are_asked_for() {
    let mut control = Control::default();
    assert_eq!(try_out(&control, 1, ReserveAction::Register, 5, 11), CONFLICT);
    register(&mut control, 1, 11);
    assert_eq!(control.generation(), 1);
    // Of who is not registered and registers with 0 nothing remains.
    assert_eq!(out(&mut control, 2, ReserveAction::Register, 0, 0), []);
    assert_eq!((control.state().registrations.len(), control.generation()), (1, 1));
    assert_eq!(try_out(&control, 1, ReserveAction::Register, 0, 12), CONFLICT);
    out(&mut control, 1, ReserveAction::Register, 11, 12);
    out(&mut control, 1, ReserveAction::RegisterAndIgnore, 99, 13);
    assert_eq!((control.state().registrations[0].key, control.generation()), (13, 3));
    let kind = ReservationType::WriteExclusive;
    for action in [
        ReserveAction::Reserve(kind),
        ReserveAction::Release(kind),
        ReserveAction::Clear,
        ReserveAction::Preempt(kind, false),
    ] {
        assert_eq!(try_out(&control, 1, action.clone(), 12, 13), CONFLICT, "{action:?}");
        assert_eq!(try_out(&control, 2, action.clone(), 0, 13), CONFLICT, "{action:?}");
    }
    for n in 0..UnitState::REGISTRATIONS_MAX as u8 - 1 {
        let who = InitiatorPort::new("iqn.2026-01.invalid.example:more", [n; 6]);
        let out = ReserveOut { action: ReserveAction::Register, key: 0, action_key: 1 };
        let change = Change { port: who, relative_port: 1, kind: ChangeKind::Persistent(out) };
        control = control.apply(&change).unwrap().control;
    }
    let full = try_out(&control, 9, ReserveAction::Register, 0, 1);
    assert_eq!(full, Err(ScsiError::InsufficientRegistrationResources));
}

#[test]
fn one_reservation_at_a_time() {
    use ReservationType as T;
    let mut control = Control::default();
    register(&mut control, 1, 11);
    register(&mut control, 2, 22);
    out(&mut control, 1, ReserveAction::Reserve(T::WriteExclusive), 11, 0);
    let generation = control.generation();
    out(&mut control, 1, ReserveAction::Reserve(T::WriteExclusive), 11, 0);
    assert_eq!(control.generation(), generation, "RESERVE does not count");
    assert_eq!(try_out(&control, 1, ReserveAction::Reserve(T::ExclusiveAccess), 11, 0), CONFLICT);
    assert_eq!(try_out(&control, 2, ReserveAction::Reserve(T::WriteExclusive), 22, 0), CONFLICT);
    // RELEASE by another changes nothing, with another type it is refused.
    assert_eq!(out(&mut control, 2, ReserveAction::Release(T::WriteExclusive), 22, 0), []);
    assert!(control.state().reservation.is_some());
    let wrong = try_out(&control, 1, ReserveAction::Release(T::ExclusiveAccess), 11, 0);
    assert_eq!(wrong, Err(ScsiError::InvalidRelease));
    // A type without registrants tells nobody.
    assert_eq!(out(&mut control, 1, ReserveAction::Release(T::WriteExclusive), 11, 0), []);
    assert!(control.state().reservation.is_none());
}

#[test]
fn who_is_told_of_a_release() {
    use ReservationType as T;
    for kind in T::ALL {
        let told = if kind.registrants() { vec![(2, UnitAttention::ReservationsReleased)] } else { vec![] };
        for unregister in [false, true] {
            let mut control = Control::default();
            register(&mut control, 1, 11);
            register(&mut control, 2, 22);
            out(&mut control, 1, ReserveAction::Reserve(kind), 11, 0);
            if !unregister {
                assert_eq!(out(&mut control, 1, ReserveAction::Release(kind), 11, 0), told, "{kind:?}");
                continue;
            }
            let got = out(&mut control, 1, ReserveAction::Register, 11, 0);
            // With all registrants the reservation stays until the last of them goes.
            let stays = kind.all_registrants();
            assert_eq!(control.state().reservation.is_some(), stays, "{kind:?}");
            assert_eq!(got, if stays { vec![] } else { told.clone() }, "{kind:?}");
            if stays {
                assert!(control.is_holder(&port(2)));
                out(&mut control, 2, ReserveAction::Register, 22, 0);
            }
            assert!(control.state().reservation.is_none());
        }
    }
    let mut control = Control::default();
    (1..4).for_each(|n| register(&mut control, n, n.into()));
    out(&mut control, 1, ReserveAction::Reserve(T::ExclusiveAccess), 1, 0);
    let told = out(&mut control, 2, ReserveAction::Clear, 2, 0);
    assert_eq!(told, [(1, UnitAttention::ReservationsPreempted), (3, UnitAttention::ReservationsPreempted)]);
    assert!(control.state().is_default());
}

#[test]
fn preempting() {
    use ReservationType as T;
    let start = |kind| {
        let mut control = Control::default();
        (1..4).for_each(|n| register(&mut control, n, u64::from(n) * 11));
        out(&mut control, 1, ReserveAction::Reserve(kind), 11, 0);
        control
    };
    // The holder's key takes the reservation over; whoever else stays is told if its type changed.
    let mut control = start(T::WriteExclusiveRegistrantsOnly);
    let told = out(&mut control, 2, ReserveAction::Preempt(T::ExclusiveAccess, false), 22, 11);
    assert_eq!(told, [(3, UnitAttention::ReservationsReleased), (1, UnitAttention::RegistrationsPreempted)]);
    let held = control.state().reservation.clone().unwrap();
    assert_eq!((held.kind, held.holder), (T::ExclusiveAccess, port(2)));
    // Another's key only ends that registration.
    let mut control = start(T::WriteExclusive);
    let told = out(&mut control, 2, ReserveAction::Preempt(T::ExclusiveAccess, false), 22, 33);
    assert_eq!(told, [(3, UnitAttention::RegistrationsPreempted)]);
    assert_eq!(control.state().reservation.as_ref().unwrap().holder, port(1));
    assert_eq!(try_out(&control, 2, ReserveAction::Preempt(T::ExclusiveAccess, false), 22, 33), CONFLICT);
    let zero = try_out(&control, 2, ReserveAction::Preempt(T::ExclusiveAccess, false), 22, 0);
    assert!(matches!(zero, Err(ScsiError::InvalidFieldInParameterList(_))));
    // All registrants: key 0 removes everybody else, another key only those who have it.
    let mut control = start(T::ExclusiveAccessAllRegistrants);
    out(&mut control, 2, ReserveAction::Preempt(T::WriteExclusive, false), 22, 11);
    assert_eq!(control.state().reservation.as_ref().unwrap().kind, T::ExclusiveAccessAllRegistrants);
    assert!(control.is_holder(&port(2)) && !control.is_holder(&port(1)));
    out(&mut control, 2, ReserveAction::Preempt(T::WriteExclusive, false), 22, 0);
    assert_eq!(control.state().registrations.len(), 1);
    assert_eq!(control.state().reservation.as_ref().unwrap().kind, T::WriteExclusive);
    // AND ABORT names whose tasks end; who preempts itself keeps its registration.
    let control = start(T::WriteExclusive);
    let changed = try_out(&control, 2, ReserveAction::Preempt(T::WriteExclusive, true), 22, 11).unwrap();
    assert_eq!(changed.abort, [port(1)]);
    let own = try_out(&control, 1, ReserveAction::Preempt(T::ExclusiveAccess, true), 11, 11).unwrap();
    assert_eq!((own.abort.len(), own.control.state().registrations.len()), (0, 3));
    assert_eq!(own.control.state().reservation.as_ref().unwrap().kind, T::ExclusiveAccess);
    // Without a reservation it removes registrations.
    let mut control = start(T::WriteExclusive);
    out(&mut control, 1, ReserveAction::Release(T::WriteExclusive), 11, 0);
    out(&mut control, 2, ReserveAction::Preempt(T::WriteExclusive, false), 22, 33);
    assert_eq!((control.state().registrations.len(), control.state().reservation.is_some()), (2, false));
}

#[test]
fn moving_a_reservation() {
    use ReservationType as T;
    let mut control = Control::default();
    register(&mut control, 1, 11);
    let to = |unregister| ReserveAction::RegisterAndMove { to: port(2), relative_port: 1, unregister };
    assert_eq!(try_out(&control, 1, to(false), 11, 22), CONFLICT);
    out(&mut control, 1, ReserveAction::Reserve(T::WriteExclusive), 11, 0);
    assert!(matches!(try_out(&control, 1, to(false), 11, 0), Err(ScsiError::InvalidFieldInParameterList(_))));
    let own = ReserveAction::RegisterAndMove { to: port(1), relative_port: 1, unregister: false };
    assert!(matches!(try_out(&control, 1, own, 11, 5), Err(ScsiError::InvalidFieldInParameterList(_))));
    out(&mut control, 1, to(true), 11, 22);
    assert_eq!(control.state().registrations.len(), 1);
    assert!(control.is_holder(&port(2)) && control.check(&port(1), Access::Change, false).is_err());
}

/// RESERVE and RELEASE of SPC-2 beside persistent reservations.
#[test]
fn the_old_reservation() {
    let change = |control: &Control, n, kind| control.apply(&Change { port: port(n), relative_port: 1, kind });
    let mut control = change(&Control::default(), 1, ChangeKind::Reserve).unwrap().control;
    assert!(control.state().is_default(), "it does not last");
    assert!(change(&control, 2, ChangeKind::Reserve).is_err());
    assert!(change(&control, 1, ChangeKind::Reserve).is_ok());
    assert!(control.check(&port(2), Access::Free, false).is_err());
    assert!(control.check(&port(2), Access::Free, true).is_ok());
    assert!(control.check(&port(1), Access::Change, false).is_ok());
    assert_eq!(try_out(&control, 1, ReserveAction::Register, 0, 1), CONFLICT);
    // Another's RELEASE is GOOD and changes nothing.
    assert_eq!(change(&control, 2, ChangeKind::Release).unwrap().control, control);
    assert!(!control.release_reserve(Some(&port(2))));
    assert!(control.release_reserve(None));
    register(&mut control, 1, 1);
    assert!(change(&control, 1, ChangeKind::Reserve).is_err());
}

/// A change that was made before SANITIZE began, and before RESERVE ended with its nexus, comes back from the disk after.
#[test]
fn what_happened_meanwhile_is_kept() {
    let reserve = Change { port: port(1), relative_port: 1, kind: ChangeKind::Reserve };
    let mut present = Control::default().apply(&reserve).unwrap().control;
    let kind = ChangeKind::Mode { software_write_protect: true, save: true };
    let mut changed = present.apply(&Change { port: port(1), relative_port: 1, kind }).unwrap().control;
    present.set_sanitize(Sanitize::Running);
    present.release_reserve(Some(&port(1)));
    changed.carry_over(&present);
    assert_eq!((changed.sanitize(), changed.reserved()), (Sanitize::Running, None));
    assert!(changed.state().software_write_protect);
}

/// Names differ in case only: one nexus.
#[test]
fn names_of_ports() {
    assert_eq!(InitiatorPort::new("IQN.2026-01.x:A", [1; 6]), InitiatorPort::new("iqn.2026-01.x:a", [1; 6]));
    assert_eq!(port(7).as_str(), "iqn.2026-01.invalid.example:host,i,0x000000000007");
}
