//! Bugs on purpose, for the test of the tests.

/// Declares `Planted`, the bugs that can be planted into the calling crate, and `plant` and `has`. It stands in a module
/// `planted` at the root of that crate, which is compiled in by the crate's feature `planted` only: nothing that is installed
/// turns it on.
///
/// Each bug must be found by the black-box checks of reprise-sim. The code that may have one says so with [`honest!`].
///
/// [`honest!`]: crate::honest!
#[macro_export]
macro_rules! planted {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Planted {
            $($(#[$doc])+ $name,)+
        }

        impl Planted {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];
        }

        thread_local! {
            static PLANTED: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
        }

        /// Plants a bug on this thread, or takes it out.
        pub fn plant(bug: Option<Planted>) {
            PLANTED.set(bug);
        }

        pub(crate) fn has(bug: Planted) -> bool {
            PLANTED.get() == Some(bug)
        }
    };
}

/// What is right, and behind it what a bug that can be planted makes of it: `honest!(len > 0, EmptyTaken => true)`. The first
/// is all there is, unless the calling crate has its feature `planted` and somebody has planted the bug.
///
/// The names are those of the crate's own [`planted!`](crate::planted!).
#[macro_export]
#[allow(clippy::crate_in_macro_def, reason = "the bugs are those of the calling crate")]
macro_rules! honest {
    ($honest:expr, $($bug:ident => $instead:expr),+ $(,)?) => {
        match () {
            $(
                #[cfg(feature = "planted")]
                () if crate::planted::has(crate::planted::Planted::$bug) => $instead,
            )+
            () => $honest,
        }
    };
}
