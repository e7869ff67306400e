//! The archive's primitive encodings, written.

/// An integer: a sign byte, then `width` bytes of magnitude, least significant first.
pub(crate) fn put_int(out: &mut Vec<u8>, width: usize, value: i32) {
    out.push(u8::from(value < 0));
    let magnitude = u64::from(value.unsigned_abs()).to_le_bytes();
    out.extend_from_slice(&magnitude[..width]);
}

/// A string: its length, or -1 for null, then its bytes. It is at most `i32::MAX` bytes long,
/// which `Entry::new` and `Toc::new` have checked.
pub(crate) fn put_str(out: &mut Vec<u8>, width: usize, value: Option<&[u8]>) {
    match value {
        None => put_int(out, width, -1),
        Some(bytes) => {
            put_int(out, width, i32::try_from(bytes.len()).expect("length was checked"));
            out.extend_from_slice(bytes);
        }
    }
}

/// A number as a decimal string, as object ids and dependencies are stored.
pub(crate) fn put_decimal(out: &mut Vec<u8>, width: usize, value: u32) {
    put_str(out, width, Some(value.to_string().as_bytes()));
}

/// The encoded length of a string; `int` is that of an integer.
pub(crate) fn str_len(int: usize, value: Option<&[u8]>) -> usize {
    int + value.map_or(0, <[u8]>::len)
}

/// The encoded length of a number as a decimal string.
pub(crate) fn decimal_len(int: usize, value: u32) -> usize {
    int + value.checked_ilog10().unwrap_or(0) as usize + 1
}
