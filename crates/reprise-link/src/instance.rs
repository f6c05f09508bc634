//! Finds out that a box, or its pool, was copied.
//!
//! Each end keeps for each peer an [`Instance`]: a nonce in use and the one that the other end confirmed last. A new
//! nonce is drawn only when the one in use has been confirmed, so a lost confirmation is harmless. The other end keeps
//! the last nonce it accepted. A copy of the box starts from the same state, but as soon as one of the two has gone on,
//! the nonce that the peer remembers is one that the other has never had.

use reprise_format::link::{Instance, Nonce};

/// The first instance for a peer.
pub fn first(random: Nonce) -> Instance {
    Instance { acknowledged: [0; 16], current: random }
}

/// To be called when the box starts, and stored before the next handshake: draws a new nonce if the one in use is
/// confirmed. Returns none where nothing changes.
pub fn on_start(instance: Instance, random: Nonce) -> Option<Instance> {
    (instance.acknowledged == instance.current).then_some(Instance { current: random, ..instance })
}

/// To be called, and stored, when the peer has answered a handshake that carried `instance`: it has seen it.
pub fn on_confirmed(instance: Instance) -> Instance {
    Instance { acknowledged: instance.current, ..instance }
}

/// True where what the peer `seen` last is what this instance can have shown it.
pub fn continues(instance: &Instance, seen: Option<&Nonce>) -> bool {
    seen.is_none_or(|seen| *seen == instance.acknowledged || *seen == instance.current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_confirmations_are_harmless_and_copies_are_found() {
        let mut live = first([1; 16]);
        let mut seen = None;
        for round in 2..30u8 {
            if let Some(next) = on_start(live, [round; 16]) {
                live = next;
            }
            assert!(continues(&live, seen.as_ref()), "round {round}");
            seen = Some(live.current);
            if round % 3 != 0 {
                live = on_confirmed(live);
            }
        }
        live = on_confirmed(live);
        let copy = live;
        live = on_start(live, [100; 16]).unwrap();
        assert!(continues(&live, seen.as_ref()));
        seen = Some(live.current);
        let copy = on_start(copy, [101; 16]).unwrap();
        assert!(!continues(&copy, seen.as_ref()), "the copy is refused once the live one has gone on");
    }
}
