//! One zlib stream, made of parts that are compressed independently.
//!
//! `pg_restore` 15 and older read only zlib, one stream for each table, and later ones loop for
//! ever on two streams in a row. So parts are compressed as raw deflate on as many threads as
//! there are, each ended by a flush to a byte border, and stitched: [`HEADER`], the parts in
//! order, and what [`Stitcher::finish`] gives.

use flate2::{Compress, Compression, FlushCompress, Status};

/// What begins the stream: deflate, a window of 32 KiB, no preset dictionary.
pub const HEADER: [u8; 2] = [0x78, 0x9c];

/// How much of the data before it a part can refer to, in bytes.
pub const WINDOW: usize = 32 << 10;

/// An empty last block in the fixed code.
const FINAL_BLOCK: [u8; 2] = [0x03, 0x00];

/// The modulus of Adler-32, the largest prime below 2^16.
const ADLER_MODULUS: u64 = 65_521;

/// The largest growth of one step of the output, in bytes.
const OUTPUT_STEP: usize = 64 << 10;

/// Why a part could not be compressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeflateError {
    /// zlib has the levels 0 to 9.
    #[error("zlib has no compression level {level}, only 0 to 9")]
    Level {
        /// The level asked for.
        level: u32,
    },
    /// The compressor refused.
    #[error("deflate failed")]
    Compress(#[from] flate2::CompressError),
    /// The compressor took or gave nothing although it could.
    #[error("deflate made no progress")]
    Stalled,
}

/// A part of a zlib stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeflatedPart {
    /// Raw deflate blocks, ending at a byte border, none of them marked as the last.
    pub bytes: Vec<u8>,
    /// The Adler-32 of the raw bytes.
    pub adler32: u32,
    /// The number of raw bytes.
    pub raw_len: u64,
}

/// Compresses a part. With a `dictionary`, the raw bytes that precede the part in the stream (the
/// last [`WINDOW`] of them count), it becomes a little smaller, but fits only there; without one it
/// fits anywhere.
///
/// # Errors
/// If the level is not one of 0 to 9.
pub fn compress_part(
    raw: &[u8],
    level: u32,
    dictionary: Option<&[u8]>,
) -> Result<DeflatedPart, DeflateError> {
    if level > 9 {
        return Err(DeflateError::Level { level });
    }
    let mut deflate = Compress::new(Compression::new(level), false);
    if let Some(dictionary) = dictionary.filter(|dictionary| !dictionary.is_empty()) {
        let used = dictionary.len().saturating_sub(WINDOW);
        deflate.set_dictionary(&dictionary[used..])?;
    }
    let mut bytes = Vec::with_capacity(raw.len() / 4 + 64);
    loop {
        let taken = usize::try_from(deflate.total_in()).expect("no more than raw's length");
        let (before_in, before_out) = (deflate.total_in(), bytes.len());
        if bytes.capacity() - bytes.len() < 64 {
            bytes.reserve(bytes.len().clamp(64, OUTPUT_STEP));
        }
        let status = deflate.compress_vec(&raw[taken..], &mut bytes, FlushCompress::Sync)?;
        // A flush is complete when zlib leaves room in the output.
        if deflate.total_in() == raw.len() as u64 && bytes.len() < bytes.capacity() {
            break;
        }
        let progress = deflate.total_in() > before_in || bytes.len() > before_out;
        if !progress || status == Status::StreamEnd {
            return Err(DeflateError::Stalled);
        }
    }
    Ok(DeflatedPart { bytes, adler32: adler32(raw), raw_len: raw.len() as u64 })
}

/// Joins parts. It never sees their bytes, only what must be known of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stitcher {
    adler32: u32,
    raw_len: u64,
}

impl Default for Stitcher {
    fn default() -> Self {
        Stitcher { adler32: 1, raw_len: 0 }
    }
}

impl Stitcher {
    /// A stream without parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next part into account.
    pub fn add(&mut self, part: &DeflatedPart) {
        self.add_checksum(part.adler32, part.raw_len);
    }

    /// Takes the next part into account, by the Adler-32 and the length of its raw bytes.
    pub fn add_checksum(&mut self, part_adler32: u32, part_raw_len: u64) {
        self.adler32 = combine(self.adler32, part_adler32, part_raw_len);
        self.raw_len += part_raw_len;
    }

    /// The raw bytes so far.
    pub fn raw_len(&self) -> u64 {
        self.raw_len
    }

    /// What follows the last part: an empty final block and the checksum.
    pub fn finish(self) -> [u8; 6] {
        let [a, b] = FINAL_BLOCK;
        let [c, d, e, f] = self.adler32.to_be_bytes();
        [a, b, c, d, e, f]
    }
}

fn adler32(bytes: &[u8]) -> u32 {
    let mut sum = simd_adler32::Adler32::new();
    sum.write(bytes);
    sum.finish()
}

/// The Adler-32 of two byte strings in a row, from those of each and the length of the second.
fn combine(first: u32, second: u32, second_len: u64) -> u32 {
    let split = |sum: u32| (u64::from(sum & 0xffff), u64::from(sum >> 16));
    let ((first_low, first_high), (second_low, second_high)) = (split(first), split(second));
    // The second string's sums start from a low word of 1; in the joined string they start from
    // the first's low word, which each of its bytes then adds once more to the high word.
    let excess = (first_low + ADLER_MODULUS - 1) % ADLER_MODULUS;
    let low = (excess + second_low) % ADLER_MODULUS;
    let high = (first_high + second_high + excess * (second_len % ADLER_MODULUS)) % ADLER_MODULUS;
    u32::try_from(high << 16 | low).expect("both words are below 2^16")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::ZlibDecoder;

    use super::*;

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| b"abcdefgh\t\n0123"[(i * i / 7 + i / 1000) % 14]).collect()
    }

    /// Bytes that do not compress.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    fn stitch(parts: &[DeflatedPart]) -> Vec<u8> {
        let (mut stream, mut stitcher) = (HEADER.to_vec(), Stitcher::new());
        for part in parts {
            stitcher.add(part);
            stream.extend_from_slice(&part.bytes);
        }
        stream.extend_from_slice(&stitcher.finish());
        stream
    }

    fn inflate(stream: &[u8]) -> Vec<u8> {
        let mut raw = Vec::new();
        let mut decoder = ZlibDecoder::new(stream);
        decoder.read_to_end(&mut raw).expect("a sound zlib stream");
        assert_eq!(decoder.total_in(), stream.len() as u64, "nothing follows the checksum");
        raw
    }

    #[test]
    fn parts_make_one_stream_with_and_without_dictionaries() {
        for raw in [text(300_000), noise(300_000)] {
            for level in [0, 1, 6, 9] {
                for size in [1, 100, 32 << 10, 70_000, 300_000] {
                    let cuts: Vec<&[u8]> = raw.chunks(size).take(50).collect();
                    let whole = cuts.concat();
                    let mut before = 0;
                    let parts: Vec<_> = cuts
                        .iter()
                        .map(|cut| {
                            let dictionary = &whole[..before];
                            before += cut.len();
                            compress_part(cut, level, Some(dictionary)).expect("compresses")
                        })
                        .collect();
                    assert!(inflate(&stitch(&parts)) == whole, "level {level}, size {size}");
                    let alone: Vec<_> = cuts
                        .iter()
                        .map(|cut| compress_part(cut, level, None).expect("compresses"))
                        .collect();
                    assert!(inflate(&stitch(&alone)) == whole, "level {level}, size {size}");
                }
            }
        }
    }

    #[test]
    fn a_dictionary_makes_a_repeated_part_smaller() {
        let raw = noise(20_000);
        let alone = compress_part(&raw, 6, None).expect("compresses");
        let after = compress_part(&raw, 6, Some(&raw)).expect("compresses");
        assert!(after.bytes.len() * 10 < alone.bytes.len());
    }

    #[test]
    fn no_parts_and_empty_parts_are_an_empty_stream() {
        assert_eq!(inflate(&stitch(&[])), b"");
        let empty = compress_part(b"", 6, None).expect("compresses");
        assert_eq!(inflate(&stitch(&[empty.clone(), empty])), b"");
    }

    #[test]
    fn checksums_combine_over_lengths_beyond_the_modulus() {
        let raw = noise(500_000);
        for cut in [0, 1, 5_552, 65_521, 65_522, 400_000, 500_000] {
            let (a, b) = raw.split_at(cut);
            assert_eq!(combine(adler32(a), adler32(b), b.len() as u64), adler32(&raw), "{cut}");
        }
    }

    #[test]
    fn a_level_that_zlib_does_not_have_is_refused() {
        let error = compress_part(b"x", 10, None).expect_err("no such level");
        assert_eq!(error.to_string(), "zlib has no compression level 10, only 0 to 9");
    }
}
