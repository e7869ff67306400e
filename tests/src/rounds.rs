//! How long tests that repeat themselves go on.

use std::env;

/// `usual` repetitions, or as many times more as `FLEXKEEP_ROUNDS` says; `make soak` sets it.
///
/// # Panics
///
/// If the variable is no number from 1 to 1000.
pub fn rounds(usual: u32) -> u32 {
    let Some(text) = env::var_os("FLEXKEEP_ROUNDS") else { return usual };
    let times = text.to_str().and_then(|text| text.parse().ok());
    let times: u32 = times.filter(|times| (1..=1000).contains(times)).unwrap_or_else(|| {
        panic!("FLEXKEEP_ROUNDS is {}; it has to be a number from 1 to 1000", text.display())
    });
    usual * times
}
