//! Which bytes of an archive become which block of a blob.
//!
//! A service copies a block from one object, so a chunk that it copies is a block of its own. What
//! lies between the chunks of two tables is a few bytes, and small chunks are cheaper to send than
//! to have copied: neighbours of that kind are put into one block. A blob has at most 50,000 blocks;
//! of more of them several blobs are made, which are then copied into one in long blocks.

use std::ops::Range;

/// Chunks from this length on are copied by the service, bytes as stored. Sending costs a request
/// to read and the bytes' way through this program, copying one request that writes.
pub(super) const COPY_FROM_BYTES: u64 = 256 << 10;

/// The longest block that is put together here, bytes.
pub(super) const SENT_BYTES: u64 = 8 << 20;

/// A piece of the archive: its length, and whether the service can copy it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PieceLength {
    pub(super) bytes: u64,
    pub(super) is_chunk: bool,
}

/// A block of the archive's body: some of its pieces, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) first: u32,
    pub(super) pieces: u32,
    /// Its one piece is a chunk that the service copies.
    pub(super) copied: bool,
}

impl Block {
    pub(super) fn pieces(self) -> Range<usize> {
        self.first as usize..(self.first + self.pieces) as usize
    }
}

/// Makes blocks of pieces.
pub(super) fn blocks(pieces: impl Iterator<Item = PieceLength>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(Block, u64)> = None;
    for (index, piece) in (0_u32..).zip(pieces) {
        if piece.is_chunk && piece.bytes >= COPY_FROM_BYTES {
            blocks.extend(open.take().map(|(block, _)| block));
            blocks.push(Block { first: index, pieces: 1, copied: true });
            continue;
        }
        if let Some((block, bytes)) = &mut open
            && *bytes + piece.bytes <= SENT_BYTES
        {
            block.pieces += 1;
            *bytes += piece.bytes;
            continue;
        }
        let block = Block { first: index, pieces: 1, copied: false };
        blocks.extend(open.replace((block, piece.bytes)).map(|(block, _)| block));
    }
    blocks.extend(open.map(|(block, _)| block));
    blocks
}

/// The blobs that an archive of `blocks` blocks is copied from, as it has too many for one with
/// `head` more for its table of contents; none if it has not.
pub(super) fn parts(blocks: usize, head: usize, most: usize) -> Option<Vec<Range<usize>>> {
    let most = most.max(1);
    let part = |part: usize| part * most..((part + 1) * most).min(blocks);
    (blocks.saturating_add(head) > most).then(|| (0..blocks.div_ceil(most)).map(part).collect())
}

/// The ranges in which a blob of `bytes` bytes is copied, each of at most `longest`.
pub(super) fn ranges(bytes: u64, longest: u64) -> impl Iterator<Item = Range<u64>> {
    let longest = longest.max(1);
    (0..bytes.div_ceil(longest)).map(move |one| {
        let start = one * longest;
        start..start.saturating_add(longest).min(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TB: u64 = 1_000_000_000_000;
    const MOST: usize = 50_000;
    const LONGEST: u64 = 4000 << 20;

    fn chunk(bytes: u64) -> PieceLength {
        PieceLength { bytes, is_chunk: true }
    }

    fn between(bytes: u64) -> PieceLength {
        PieceLength { bytes, is_chunk: false }
    }

    /// Tables of equal chunks, each with its start and end.
    fn tables(count: u64, chunks: u64, bytes: u64) -> impl Iterator<Item = PieceLength> {
        (0..count).flat_map(move |_| {
            let rows = (0..chunks).map(move |_| chunk(bytes));
            std::iter::once(between(6)).chain(rows).chain([between(24)])
        })
    }

    /// Proves the layout, and gives the blocks, the parts (0: none are needed), and the blocks of
    /// the archive.
    fn laid_out(pieces: impl Iterator<Item = PieceLength>) -> (usize, usize, usize) {
        let pieces: Vec<PieceLength> = pieces.collect();
        let blocks = blocks(pieces.iter().copied());
        let mut next = 0;
        for block in &blocks {
            assert_eq!(block.pieces().start, next, "no piece is left out");
            next = block.pieces().end;
            let bytes: u64 = pieces[block.pieces()].iter().map(|one| one.bytes).sum();
            if block.copied {
                assert!(block.pieces == 1 && pieces[block.pieces().start].is_chunk);
                assert!(bytes <= LONGEST);
            } else {
                assert!(bytes <= SENT_BYTES || block.pieces == 1, "{bytes}");
            }
        }
        assert_eq!(next, pieces.len());
        let head = 30;
        let Some(parts) = parts(blocks.len(), head, MOST) else {
            assert!(blocks.len() + head <= MOST);
            return (blocks.len(), 0, blocks.len() + head);
        };
        assert_eq!(parts.iter().map(Range::len).sum::<usize>(), blocks.len());
        assert!(parts.iter().all(|part| part.len() <= MOST));
        let of = |part: &Range<usize>| -> u64 {
            let range = blocks[part.start].pieces().start..blocks[part.end - 1].pieces().end;
            pieces[range].iter().map(|one| one.bytes).sum()
        };
        let copied: usize = parts.iter().map(|part| ranges(of(part), LONGEST).count()).sum();
        assert!(copied + head <= MOST, "{copied} blocks");
        (blocks.len(), parts.len(), copied + head)
    }

    #[test]
    fn four_terabytes_in_one_table_fit() {
        // The largest mean length of chunks, not compressible at all.
        let bytes = 8 << 20;
        let found = laid_out(tables(1, 4 * TB / bytes, bytes));
        assert_eq!(found, (476_839, 10, 30 + 954));
    }

    #[test]
    fn four_terabytes_in_a_hundred_thousand_tables_fit() {
        // 40 MB each: the smallest mean length of chunks.
        let bytes = 512 << 10;
        let (blocks, parts, archive) = laid_out(tables(100_000, 4 * TB / 100_000 / bytes, bytes));
        // Each chunk, and what is between two tables.
        assert_eq!((blocks, parts), (100_000 * 76 + 100_001, 155));
        assert!(archive <= 1300, "{archive}");
    }

    #[test]
    fn tiny_chunks_share_blocks() {
        let bytes = 40 << 10;
        let (blocks, parts, archive) = laid_out(tables(3_000_000, 1, bytes));
        // 123 GB, in blocks of nearly 8 MiB.
        assert_eq!((blocks, parts, archive), (14_706, 0, 14_736));
        // Between long ones they are blocks of their own at worst.
        let mixed = (0..200_000).flat_map(|_| [chunk(1 << 20), chunk(100), between(6)]);
        assert_eq!(laid_out(mixed).0, 400_000);
    }

    #[test]
    fn parts_are_made_only_where_one_blob_does_not_do() {
        assert_eq!(laid_out(std::iter::empty()), (0, 0, 30));
        assert_eq!(parts(MOST - 30, 30, MOST), None);
        assert_eq!(parts(MOST - 29, 30, MOST), Some(vec![0..MOST - 29; 1]));
    }

    #[test]
    fn ranges_cover_a_blob() {
        assert_eq!(ranges(0, 10).count(), 0);
        assert_eq!(ranges(25, 10).collect::<Vec<_>>(), [0..10, 10..20, 20..25]);
        assert_eq!(ranges(20, 10).collect::<Vec<_>>(), [0..10, 10..20]);
    }
}
