//! The arguments of `flexkeep verify`.

use clap::Args;
use flexkeep_engine::Depth;

use super::{VaultArgs, count};

pub(super) const EXAMPLES: &str = "\
Examples:
  flexkeep verify --vault /srv/vault                    all backups, every byte
  flexkeep verify shop/latest --vault /srv/vault        one backup
  flexkeep verify --sample 5 --vault /srv/vault         a twentieth of the data, another each time
  flexkeep verify --sizes-only --vault /srv/vault       is everything there?

Exit code 0: what was read is whole; 4: something is damaged or missing.";

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Only these: ids, beginnings of ids, SERVER/latest, or latest; all when none is given
    #[arg(value_name = "BACKUP")]
    pub(crate) backups: Vec<String>,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    /// Read this share of the chunks, drawn anew each time; everything else is looked at whole
    #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with = "sizes_only")]
    sample: Option<f64>,
    /// Draw the sample that was drawn with this number
    #[arg(long, value_name = "N", requires = "sample")]
    seed: Option<u64>,
    /// Read no chunks: only whether they are there and as long as they should be
    #[arg(long)]
    sizes_only: bool,
    /// Threads that read and hash; as many as there are processors when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
}

impl VerifyArgs {
    /// How much is read; `drawn` is the seed where none is given.
    pub(crate) fn depth(&self, drawn: u64) -> Depth {
        match self.sample {
            Some(percent) => Depth::Sample { percent, seed: self.seed.unwrap_or(drawn) },
            None if self.sizes_only => Depth::Sizes,
            None => Depth::All,
        }
    }

    pub(crate) fn threads(&self) -> usize {
        let processors =
            || std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
        self.threads.map_or_else(processors, count)
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>();
    match number {
        Ok(number) if number > 0.0 && number <= 100.0 => Ok(number),
        _ => Err("it must be a number above 0, and at most 100".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage_above_nothing() {
        assert_eq!(percent("5"), Ok(5.0));
        assert_eq!(percent("0.1%"), Ok(0.1));
        assert_eq!(percent("100"), Ok(100.0));
        for wrong in ["", "0", "-1", "100.1", "NaN", "inf", "half"] {
            assert!(percent(wrong).is_err(), "{wrong:?}");
        }
    }
}
