//! Bugs on purpose, for the test of the tests.

/// Declares `Planted`, the bugs that can be planted into the calling crate, and `plant` and `has`.
///
/// Each must be found by the black-box checks of reprise-sim. They are compiled in by the caller's feature `planted` only,
/// which nothing that is installed turns on: without it `has` is a constant.
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

        #[cfg(feature = "planted")]
        thread_local! {
            static PLANTED: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
        }

        /// Plants a bug on this thread, or takes it out.
        #[cfg(feature = "planted")]
        pub fn plant(bug: Option<Planted>) {
            PLANTED.set(bug);
        }

        #[cfg(feature = "planted")]
        pub(crate) fn has(bug: Planted) -> bool {
            PLANTED.get() == Some(bug)
        }

        #[cfg(not(feature = "planted"))]
        pub(crate) const fn has(_bug: Planted) -> bool {
            false
        }
    };
}
