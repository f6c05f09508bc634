//! The clocks of this box.

use reprise_types::{Mono, Now, WallMicros};

fn read(clock: nix::time::ClockId) -> std::time::Duration {
    // These clocks exist on every kernel that has io_uring.
    clock.now().map(std::time::Duration::from).unwrap_or_default()
}

/// The boot-time clock, which counts sleep, and the wall clock.
pub fn now() -> Now {
    let wall = read(nix::time::ClockId::CLOCK_REALTIME);
    Now {
        mono: Mono::from_nanos(read(nix::time::ClockId::CLOCK_BOOTTIME).as_nanos() as u64),
        wall: WallMicros::from_raw(wall.as_micros() as u64),
    }
}
