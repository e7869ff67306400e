//! Values whose text is made of their binary form.

use super::text::{ROOM, Text, hex};
use super::{BinaryError, ColumnFormat};
use crate::connection::CopySink;

const MICROSECONDS_A_DAY: i64 = 86_400_000_000;

/// Days from 0000-03-01, from which civil dates are counted, to 2000-01-01.
const EPOCH: i64 = 730_425;

/// Two digits for each number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut table = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        table[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    table
};

/// Writes a value; `false` if it is none of its column's type.
#[inline]
pub(super) fn write<S: CopySink>(
    column: ColumnFormat,
    value: &[u8],
    dates: &mut Dates,
    out: &mut Text<'_, S>,
) -> Result<bool, BinaryError<S::Error>> {
    if column == ColumnFormat::Numeric {
        return numeric(value, out);
    }
    let room = out.room(ROOM)?;
    let used = match (column, value) {
        (ColumnFormat::Int8, &[a, b, c, d, e, f, g, h]) => {
            integer(i64::from_be_bytes([a, b, c, d, e, f, g, h]), room)
        }
        (ColumnFormat::Int4, &[a, b, c, d]) => {
            integer(i64::from(i32::from_be_bytes([a, b, c, d])), room)
        }
        (ColumnFormat::Int2, &[a, b]) => integer(i64::from(i16::from_be_bytes([a, b])), room),
        (ColumnFormat::Oid, &[a, b, c, d]) => {
            integer(i64::from(u32::from_be_bytes([a, b, c, d])), room)
        }
        (ColumnFormat::Bool, &[value]) => {
            room[0] = if value == 0 { b'f' } else { b't' };
            1
        }
        (ColumnFormat::Uuid, value) if value.len() == 16 => uuid(value, room),
        (ColumnFormat::Date, &[a, b, c, d]) => dates.date(i32::from_be_bytes([a, b, c, d]), room),
        (ColumnFormat::Timestamp, &[a, b, c, d, e, f, g, h]) => {
            dates.timestamp(i64::from_be_bytes([a, b, c, d, e, f, g, h]), "", room)
        }
        (ColumnFormat::TimestampTz, &[a, b, c, d, e, f, g, h]) => {
            dates.timestamp(i64::from_be_bytes([a, b, c, d, e, f, g, h]), "+00", room)
        }
        _ => return Ok(false),
    };
    out.used(used);
    Ok(true)
}

/// Writes a number; `out` is longer than any of its bytes need it to be.
#[inline]
fn integer(number: i64, out: &mut [u8]) -> usize {
    out[0] = b'-';
    let sign = usize::from(number < 0);
    // Most are short. Those are written in fixed pieces, which costs no call and no loop.
    match number.unsigned_abs() {
        short @ 0..10_000 => sign + up_to_four(short as usize, &mut out[sign..]),
        longer @ 10_000..100_000_000 => {
            let (high, low) = (longer as usize / 10_000, longer as usize % 10_000);
            let at = sign + up_to_four(high, &mut out[sign..]);
            out[at..at + 4].copy_from_slice(&four_digits(low));
            at + 4
        }
        _ => long_integer(number, out),
    }
}

/// Writes a number below 10000 without zeros before it.
#[inline]
fn up_to_four(number: usize, out: &mut [u8]) -> usize {
    let zeros = usize::from(number < 1000) + usize::from(number < 100) + usize::from(number < 10);
    let digits = u32::from_le_bytes(four_digits(number)) >> (8 * zeros);
    out[..4].copy_from_slice(&digits.to_le_bytes());
    4 - zeros
}

fn long_integer(number: i64, out: &mut [u8]) -> usize {
    let mut digits = itoa::Buffer::new();
    let text = digits.format(number).as_bytes();
    out[..text.len()].copy_from_slice(text);
    text.len()
}

#[inline]
fn uuid(value: &[u8], out: &mut [u8]) -> usize {
    let out = &mut out[..36];
    for (bytes, at) in [(0..4, 0), (4..6, 9), (6..8, 14), (8..10, 19), (10..16, 24)] {
        hex(&value[bytes], &mut out[at..]);
    }
    for at in [8, 13, 18, 23] {
        out[at] = b'-';
    }
    36
}

/// As `get_str_from_var` of the server does it.
fn numeric<S: CopySink>(
    value: &[u8],
    out: &mut Text<'_, S>,
) -> Result<bool, BinaryError<S::Error>> {
    let Some((&[a, b, c, d, e, f, g, h], rest)) = value.split_first_chunk() else {
        return Ok(false);
    };
    let (digits, odd) = rest.as_chunks::<2>();
    let weight = i32::from(i16::from_be_bytes([c, d]));
    let scale = usize::from(u16::from_be_bytes([g, h]));
    if !odd.is_empty() || digits.len() != usize::from(u16::from_be_bytes([a, b])) {
        return Ok(false);
    }
    match u16::from_be_bytes([e, f]) {
        0 => {}
        0x4000 => out.byte(b'-')?,
        0xc000 => return out.put(b"NaN").map(|()| true),
        0xd000 => return out.put(b"Infinity").map(|()| true),
        0xf000 => return out.put(b"-Infinity").map(|()| true),
        _ => return Ok(false),
    }
    let group = |at: i32| {
        let digit = usize::try_from(at).ok().and_then(|at| digits.get(at));
        digit.map_or(0, |digit| usize::from(u16::from_be_bytes(*digit)))
    };
    if digits.iter().any(|digit| u16::from_be_bytes(*digit) > 9999) {
        return Ok(false);
    }
    if weight < 0 {
        out.byte(b'0')?;
    } else {
        let room = out.room(ROOM)?;
        let used = integer(group(0) as i64, room);
        out.used(used);
        for at in 1..=weight {
            four(group(at), out)?;
        }
    }
    if scale > 0 {
        out.byte(b'.')?;
        let (mut left, mut at) = (scale, weight + 1);
        while left >= 4 {
            four(group(at), out)?;
            (left, at) = (left - 4, at + 1);
        }
        if left > 0 {
            let digits = four_digits(group(at));
            out.put(&digits[..left])?;
        }
    }
    Ok(true)
}

#[inline]
fn four<S: CopySink>(number: usize, out: &mut Text<'_, S>) -> Result<(), BinaryError<S::Error>> {
    out.put(&four_digits(number))
}

#[inline]
fn four_digits(number: usize) -> [u8; 4] {
    let ([a, b], [c, d]) = (PAIRS[number / 100 % 100], PAIRS[number % 100]);
    [a, b, c, d]
}

/// Dates in text. Rows that follow each other are mostly of one day.
pub(super) struct Dates {
    day: i64,
    text: [u8; 16],
    length: usize,
    before_christ: bool,
}

impl Default for Dates {
    fn default() -> Self {
        let mut dates = Self { day: 0, text: [0; 16], length: 0, before_christ: false };
        dates.set(0);
        dates
    }
}

impl Dates {
    fn set(&mut self, day: i64) {
        let (year, month, date) = civil(day);
        self.before_christ = year <= 0;
        let year = if year <= 0 { 1 - year } else { year };
        let mut at = 0;
        if year < 10_000 {
            // As many as there are zeros before a shorter number.
            self.text[..4].copy_from_slice(&four_digits(year as usize));
            at += 4;
        } else {
            at += integer(year, &mut self.text);
        }
        let ([a, b], [c, d]) = (PAIRS[month], PAIRS[date]);
        self.text[at..at + 6].copy_from_slice(&[b'-', a, b, b'-', c, d]);
        (self.day, self.length) = (day, at + 6);
    }

    /// Writes year, month and day.
    #[inline]
    fn put(&mut self, day: i64, out: &mut [u8]) -> usize {
        if day != self.day {
            self.set(day);
        }
        out[..16].copy_from_slice(&self.text);
        self.length
    }

    fn era(&self, out: &mut [u8]) -> usize {
        if self.before_christ {
            out[..3].copy_from_slice(b" BC");
            3
        } else {
            0
        }
    }

    fn date(&mut self, days: i32, out: &mut [u8]) -> usize {
        if let Some(text) = infinite(days == i32::MIN, days == i32::MAX) {
            out[..text.len()].copy_from_slice(text);
            return text.len();
        }
        let at = self.put(i64::from(days), out);
        at + self.era(&mut out[at..])
    }

    #[inline]
    fn timestamp(&mut self, time: i64, zone: &str, out: &mut [u8]) -> usize {
        if let Some(text) = infinite(time == i64::MIN, time == i64::MAX) {
            out[..text.len()].copy_from_slice(text);
            return text.len();
        }
        let (day, time) =
            (time.div_euclid(MICROSECONDS_A_DAY), time.rem_euclid(MICROSECONDS_A_DAY));
        let mut at = self.put(day, out);
        let (seconds, fraction) = ((time / 1_000_000) as usize, (time % 1_000_000) as usize);
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let ([a, b], [c, d], [e, f]) = (PAIRS[hours], PAIRS[minutes], PAIRS[seconds]);
        out[at..at + 9].copy_from_slice(&[b' ', a, b, b':', c, d, b':', e, f]);
        at += 9;
        if fraction > 0 {
            let ([a, b], [c, d], [e, f]) =
                (PAIRS[fraction / 10_000], PAIRS[fraction / 100 % 100], PAIRS[fraction % 100]);
            out[at..at + 7].copy_from_slice(&[b'.', a, b, c, d, e, f]);
            at += 7;
            while out[at - 1] == b'0' {
                at -= 1;
            }
        }
        out[at..at + zone.len()].copy_from_slice(zone.as_bytes());
        at += zone.len();
        at + self.era(&mut out[at..])
    }
}

fn infinite(minus: bool, plus: bool) -> Option<&'static [u8]> {
    if minus {
        Some(b"-infinity")
    } else if plus {
        Some(b"infinity")
    } else {
        None
    }
}

/// Year, month and day of the Gregorian calendar, from days since 2000-01-01. Years are counted
/// from March on, so that the leap day is a year's last.
fn civil(day: i64) -> (i64, usize, usize) {
    let day = day + EPOCH;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let date = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + i64::from(month <= 2), month as usize, date as usize)
}
