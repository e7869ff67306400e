//! Chunks: whether they are there, how long they are, and what is in them.

use std::collections::HashMap;

use flexkeep_vault::contents::ChunkRef;
use flexkeep_vault::{ChunkBuffer, ContentHash, Vault, VaultError, chunk_name};

use super::lists::{Chunks, told};
use super::{Depth, Findings, Unreferenced, VerifyError, VerifyOptions, Wanted};
use crate::export::pipeline::in_order;
use crate::progress::Progress;

/// The chunks that are there.
pub(super) struct Present {
    pub(super) chunks: Vec<Found>,
    pub(super) unreferenced: Unreferenced,
}

/// A chunk that is wanted and there.
pub(super) struct Found {
    hash: ContentHash,
    wanted: Wanted,
    /// Length of the object that is there, bytes.
    bytes: u64,
}

/// What one listing found.
struct Listing {
    found: Vec<Found>,
    missing: Vec<ContentHash>,
    unreferenced: Unreferenced,
}

/// Looks for `chunks` by listing the vault; each listing takes those whose hash begins with one
/// byte.
pub(super) fn look(
    vault: &Vault,
    chunks: Chunks,
    threads: usize,
    findings: &mut Findings,
    progress: &Progress,
) -> Result<Present, VerifyError> {
    let mut groups: Vec<Vec<(ContentHash, Wanted)>> = Vec::new();
    groups.resize_with(256, Vec::new);
    for (hash, wanted) in chunks {
        groups[usize::from(hash.as_bytes()[0])].push((hash, wanted));
    }
    let jobs: Vec<(u8, Vec<(ContentHash, Wanted)>)> = (0..=u8::MAX).zip(groups).collect();
    let mut present = Present { chunks: Vec::new(), unreferenced: Unreferenced::default() };
    in_order::<_, _, _, VerifyError>(
        &jobs,
        threads,
        2 * threads.max(1),
        || (),
        |(), (first, wanted)| list(vault, *first, wanted),
        |_, listing| {
            progress.check_cancelled(VerifyError::Cancelled)?;
            let listing = listing?;
            present.chunks.extend(listing.found);
            present.unreferenced.chunks += listing.unreferenced.chunks;
            present.unreferenced.bytes += listing.unreferenced.bytes;
            for hash in listing.missing {
                findings.damage(hash, chunk_name(&hash), "it is not there".to_owned());
            }
            Ok(())
        },
    )?;
    Ok(present)
}

fn list(
    vault: &Vault,
    first: u8,
    wanted: &[(ContentHash, Wanted)],
) -> Result<Listing, VerifyError> {
    let mut by_hash: HashMap<ContentHash, Wanted> = wanted.iter().copied().collect();
    let mut listing =
        Listing { found: Vec::new(), missing: Vec::new(), unreferenced: Unreferenced::default() };
    let listed = vault.data().list(&format!("chunks/{first:02x}/"), &mut |meta| {
        let hash = meta.name.rsplit('/').next().and_then(|name| name.parse::<ContentHash>().ok());
        match hash.and_then(|hash| by_hash.remove(&hash).map(|wanted| (hash, wanted))) {
            Some((hash, wanted)) => {
                listing.found.push(Found { hash, wanted, bytes: meta.bytes });
            }
            None => {
                listing.unreferenced.chunks += 1;
                listing.unreferenced.bytes += meta.bytes;
            }
        }
    });
    listed.map_err(VaultError::from)?;
    listing.missing = by_hash.into_keys().collect();
    listing.missing.sort();
    Ok(listing)
}

/// Reads and hashes what `options` picks of `chunks`, and those whose length is not the one in
/// the lists: only their content tells whether they are another compression or damaged.
pub(super) fn read(
    vault: &Vault,
    chunks: &[Found],
    options: &VerifyOptions,
    findings: &mut Findings,
    progress: &Progress,
) -> Result<(), VerifyError> {
    let picked: Vec<&Found> = chunks
        .iter()
        .filter(|chunk| {
            is_picked(&chunk.hash, options.depth)
                || chunk.bytes != u64::from(chunk.wanted.stored_bytes)
        })
        .collect();
    progress.planned(picked.len() as u64, picked.iter().map(|chunk| chunk.bytes).sum());
    in_order(
        &picked,
        options.threads,
        4 * options.threads.max(1),
        ChunkBuffer::new,
        |buffer, chunk| {
            if progress.is_cancelled() {
                return Err(VerifyError::Cancelled);
            }
            let Wanted { kind, raw_bytes, stored_bytes } = chunk.wanted;
            let reference =
                ChunkRef { hash: chunk.hash, raw_bytes, stored_bytes, continued: false };
            Ok(vault.get_chunk(kind, &reference, buffer))
        },
        |chunk, outcome| {
            progress.done(chunk.bytes);
            progress.object_done();
            findings.counts.chunks_read += 1;
            findings.counts.stored_bytes_read += chunk.bytes;
            match outcome? {
                Ok(()) => {
                    findings.counts.raw_bytes_read += u64::from(chunk.wanted.raw_bytes);
                    progress.read_some(u64::from(chunk.wanted.raw_bytes));
                    Ok(())
                }
                Err(error) => {
                    let Some((_, problem)) = told(vault, &error) else { return Err(error.into()) };
                    findings.damage(chunk.hash, chunk_name(&chunk.hash), problem);
                    Ok(())
                }
            }
        },
    )
}

/// Whether the content of this chunk is to be read. A sample takes hashes at random: they are
/// as good as random numbers, and a seed turns them into others.
fn is_picked(hash: &ContentHash, depth: Depth) -> bool {
    match depth {
        Depth::Sizes => false,
        Depth::All => true,
        Depth::Sample { percent, seed } => {
            let mut seeded = seed.to_le_bytes().to_vec();
            seeded.extend_from_slice(hash.as_bytes());
            let [a, b, c, d, ..] = *ContentHash::of(&seeded).as_bytes();
            f64::from(u32::from_le_bytes([a, b, c, d])) < percent / 100.0 * f64::from(u32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_its_share_and_another_seed_takes_others() {
        let hashes: Vec<ContentHash> =
            (0..10_000_u32).map(|n| ContentHash::of(&n.to_le_bytes())).collect();
        let of = |seed| {
            let depth = Depth::Sample { percent: 5.0, seed };
            hashes.iter().filter(|hash| is_picked(hash, depth)).collect::<Vec<_>>()
        };
        for seed in 0..5 {
            assert!((350..650).contains(&of(seed).len()), "{}", of(seed).len());
            assert_eq!(of(seed), of(seed));
        }
        assert_ne!(of(1), of(2));
        let all = Depth::Sample { percent: 100.0, seed: 7 };
        assert!(hashes.iter().all(|hash| is_picked(hash, all)));
    }
}
