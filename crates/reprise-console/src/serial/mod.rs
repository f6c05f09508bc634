//! The console on a serial line or on the screen.
