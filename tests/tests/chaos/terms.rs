//! What a seed decides about a world before it begins.

use std::time::Duration;

use fastrand::Rng;
use flexkeep_tests::Version;

/// How long a world lives, at least.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    pub(crate) time: Duration,
    /// Kills (in a world of kills alone, those that another lane survived).
    pub(crate) kills: u32,
}

/// A world as its seed makes it.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) seed: u64,
    /// Only handlers and hosts are killed, never both at once, and nothing changes the tables.
    pub(crate) only_kills: bool,
    pub(crate) version: Version,
    /// Azurite behind a proxy that makes faults, or a folder.
    pub(crate) blobs: bool,
    pub(crate) lane_seconds: u32,
    pub(crate) max_mb_per_second: u32,
}

impl Terms {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let version = match seed % 4 {
            0 => Version::V18,
            3 => Version::V15,
            _ => Version::V17,
        };
        Self {
            seed,
            only_kills: false,
            version,
            blobs: seed % 3 != 2,
            lane_seconds: rng.u32(2..=6),
            max_mb_per_second: rng.u32(5..=9),
        }
    }

    pub(crate) fn only_kills(seed: u64) -> Self {
        Self { only_kills: true, blobs: false, ..Self::of(seed) }
    }

    /// How somebody repeats it.
    pub(crate) fn command(&self, goal: &Goal) -> String {
        let (seed, seconds) = (self.seed, goal.time.as_secs());
        if self.only_kills {
            let kills = goal.kills;
            return format!(
                "FLEXKEEP_SEED={seed} FLEXKEEP_SOAK_ONLY=kills FLEXKEEP_SOAK_KILLS={kills} make soak"
            );
        }
        format!("FLEXKEEP_SEED={seed} FLEXKEEP_SOAK_SECONDS={seconds} make soak")
    }
}

/// A number in the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; it has to be a number")))
}

/// `FLEXKEEP_SOAK_ONLY=kills`: how many kills are wanted.
pub(crate) fn only_kills() -> Option<u32> {
    match std::env::var("FLEXKEEP_SOAK_ONLY").unwrap_or_default().as_str() {
        "" => None,
        "kills" => {
            let kills = number("FLEXKEEP_SOAK_KILLS").unwrap_or(200);
            Some(u32::try_from(kills).expect("FLEXKEEP_SOAK_KILLS is a small number"))
        }
        other => panic!("FLEXKEEP_SOAK_ONLY is {other:?}; there is only `kills`"),
    }
}
