//! The bytes around compressed data, for composing an archive of ready chunks without a writer.
//!
//! A table's block is [`table_data_start`], its pieces (each a [`piece_header`] and that many
//! bytes), [`END`]. A block of large objects is [`blobs_start`], then for each object its
//! [`oid`], its pieces, [`END`], and after the last object one more [`END`].
//!
//! Where pieces are cut means nothing, with two exceptions. With zstd each frame must begin a
//! piece: `pg_restore` silently drops what follows a frame in the same piece. With gzip all
//! pieces of a table or large object are one zlib stream, and there must be at least one.
//!
//! All of it is for integers of four bytes, the only width that `pg_dump` writes.

/// What begins a block of table data.
pub(crate) const TABLE_DATA: u8 = 1;
/// What begins a block of large objects.
pub(crate) const BLOBS: u8 = 3;

/// The encoded length of an integer, and so of a piece header.
pub const INT_LEN: usize = 5;

/// The encoded length of a block's start.
pub const START_LEN: usize = 1 + INT_LEN;

/// What ends a table, a large object, and a block of large objects.
pub const END: [u8; INT_LEN] = [0; INT_LEN];

/// What follows the last row of a table's COPY text, once, inside the compressed data.
pub const COPY_TERMINATOR: &[u8; 5] = b"\\.\n\n\n";

/// The longest piece that the format can hold, in bytes.
pub const MAX_PIECE_LEN: usize = i32::MAX as usize;

/// An archive's integer.
pub const fn int(value: i32) -> [u8; INT_LEN] {
    let [a, b, c, d] = value.unsigned_abs().to_le_bytes();
    [(value < 0) as u8, a, b, c, d]
}

/// A large object's oid. One of 2^31 or more becomes negative, as C's conversion does it.
pub const fn oid(oid: u32) -> [u8; INT_LEN] {
    int(oid.cast_signed())
}

/// What begins the block of the table data entry with this dump id.
pub const fn table_data_start(dump_id: i32) -> [u8; START_LEN] {
    start(TABLE_DATA, dump_id)
}

/// What begins the block of the large objects entry with this dump id.
pub const fn blobs_start(dump_id: i32) -> [u8; START_LEN] {
    start(BLOBS, dump_id)
}

/// What precedes a piece of this many bytes; `None` if it would not be a piece: an empty one
/// ends the data, and one over [`MAX_PIECE_LEN`] cannot be said.
pub const fn piece_header(len: usize) -> Option<[u8; INT_LEN]> {
    if len == 0 || len > MAX_PIECE_LEN { None } else { Some(int(len as i32)) }
}

const fn start(kind: u8, dump_id: i32) -> [u8; START_LEN] {
    let [sign, a, b, c, d] = int(dump_id);
    [kind, sign, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_oids_are_as_pg_dump_writes_them() {
        assert_eq!(int(258), [0, 2, 1, 0, 0]);
        assert_eq!(int(-1), [1, 1, 0, 0, 0]);
        assert_eq!(int(i32::MIN), [1, 0, 0, 0, 128]);
        assert_eq!(oid(7), [0, 7, 0, 0, 0]);
        assert_eq!(oid(u32::MAX), [1, 1, 0, 0, 0]);
        assert_eq!(oid(1 << 31), [1, 0, 0, 0, 128]);
        assert_eq!(table_data_start(3), [1, 0, 3, 0, 0, 0]);
        assert_eq!(blobs_start(3), [3, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn a_piece_is_neither_empty_nor_longer_than_the_format_allows() {
        assert_eq!(piece_header(0), None);
        assert_eq!(piece_header(1), Some([0, 1, 0, 0, 0]));
        assert_eq!(piece_header(MAX_PIECE_LEN), Some([0, 255, 255, 255, 127]));
        assert_eq!(piece_header(MAX_PIECE_LEN + 1), None);
    }
}
