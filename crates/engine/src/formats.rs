//! Which tables are read in binary format.
//!
//! What a server spends on a COPY in text format is mostly the text: to make it, and to look at each
//! byte of it. In binary format it does neither, and [`flexkeep_pg_copy::BinaryRows`] makes the same
//! text here. That is a gain for times and long texts, and none for small numbers, of which the
//! server makes text faster than binary form. So each table is weighed. What is weighed decides only
//! how fast it is read: the text is the same, to the last byte.

use std::collections::HashMap;

use flexkeep_pg_copy::{ColumnFormat, Connection};

use crate::error::BackupError;
use crate::session;
use crate::snapshot::TableFacts;

/// A smaller table is not worth the question, bytes on disk.
const SMALL_TABLE_BYTES: u64 = 8 << 20;

/// What a row must win to be read in binary format, nanoseconds.
const LEAST_GAIN: i64 = 25;

/// What the header of a row takes on disk.
const ROW_HEADER_BYTES: i64 = 28;

/// Types by the server's functions that write them, whatever their names are: domains and
/// extensions' types of the same functions are the same.
const TYPES: [(ColumnFormat, &str, &str); 18] = [
    (ColumnFormat::Text, "textout", "textsend"),
    (ColumnFormat::Text, "varcharout", "varcharsend"),
    (ColumnFormat::Text, "bpcharout", "bpcharsend"),
    (ColumnFormat::Text, "nameout", "namesend"),
    (ColumnFormat::Text, "json_out", "json_send"),
    (ColumnFormat::Text, "enum_out", "enum_send"),
    (ColumnFormat::Jsonb, "jsonb_out", "jsonb_send"),
    (ColumnFormat::Bytea, "byteaout", "byteasend"),
    (ColumnFormat::Bool, "boolout", "boolsend"),
    (ColumnFormat::Int2, "int2out", "int2send"),
    (ColumnFormat::Int4, "int4out", "int4send"),
    (ColumnFormat::Int8, "int8out", "int8send"),
    (ColumnFormat::Oid, "oidout", "oidsend"),
    (ColumnFormat::Numeric, "numeric_out", "numeric_send"),
    (ColumnFormat::Uuid, "uuid_out", "uuid_send"),
    (ColumnFormat::Date, "date_out", "date_send"),
    (ColumnFormat::Timestamp, "timestamp_out", "timestamp_send"),
    (ColumnFormat::TimestampTz, "timestamptz_out", "timestamptz_send"),
];

/// What a value in binary format wins, nanoseconds of both sides together, and its bytes on disk where
/// that is known; measured in docs/performance.md.
fn gain(column: ColumnFormat) -> (i64, Option<i64>) {
    match column {
        ColumnFormat::Text => (-28, None),
        ColumnFormat::Jsonb => (-32, None),
        ColumnFormat::Bytea => (-20, None),
        ColumnFormat::Bool => (-27, Some(1)),
        ColumnFormat::Int2 => (-13, Some(2)),
        ColumnFormat::Int4 | ColumnFormat::Oid => (-13, Some(4)),
        ColumnFormat::Int8 => (-15, Some(8)),
        ColumnFormat::Numeric => (-35, Some(8)),
        ColumnFormat::Uuid => (15, Some(16)),
        ColumnFormat::Date => (20, Some(4)),
        ColumnFormat::Timestamp | ColumnFormat::TimestampTz => (70, Some(8)),
    }
}

/// What a byte of text wins, in hundredths of a nanosecond.
const GAIN_OF_TEXT: i64 = 85;

/// The columns of tables that are read in binary format, a letter each, by oid.
pub(crate) type Formats = HashMap<u32, String>;

/// Looks at the large ones of `tables`.
pub(crate) fn ask(
    connection: &mut Connection,
    database: &str,
    tables: &HashMap<u32, TableFacts>,
) -> Result<Formats, BackupError> {
    const QUERY: &str = "column formats";
    let mut large: Vec<u32> = tables
        .iter()
        .filter(|(_, table)| table.disk_bytes > SMALL_TABLE_BYTES)
        .map(|(oid, _)| *oid)
        .collect();
    if large.is_empty() {
        return Ok(Formats::new());
    }
    large.sort_unstable();
    let large: Vec<String> = large.iter().map(u32::to_string).collect();
    let types: Vec<String> = TYPES
        .iter()
        .map(|(format, output, send)| format!("('{}','{output}','{send}')", format.letter()))
        .collect();
    // Language 12 is that of the server's own functions. A timestamptz is written in UTC here, and
    // in the session's time zone there.
    let sql = format!(
        "SELECT c.oid, pg_catalog.string_agg(CASE WHEN k.letter = '{tz}' \
         AND pg_catalog.current_setting('TimeZone') NOT IN ('UTC', 'Etc/UTC', 'GMT', 'Etc/GMT') \
         THEN '-' ELSE coalesce(k.letter, '-') END, '' ORDER BY a.attnum), \
         pg_catalog.min(c.reltuples::bigint) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         LEFT JOIN pg_catalog.pg_proc o ON o.oid = t.typoutput AND o.prolang = 12 \
         LEFT JOIN pg_catalog.pg_proc s ON s.oid = t.typsend AND s.prolang = 12 \
         LEFT JOIN (VALUES {types}) k (letter, output, send) \
         ON k.output = o.prosrc AND k.send = s.prosrc \
         WHERE c.oid = ANY ('{{{large}}}'::pg_catalog.oid[]) \
         AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' GROUP BY c.oid",
        tz = ColumnFormat::TimestampTz.letter(),
        types = types.join(","),
        large = large.join(","),
    );
    let mut formats = Formats::new();
    for row in &session::rows(connection, database, "asking for the types of columns", &sql)? {
        let oid: u32 = session::number(row, 0, QUERY)?;
        let letters = session::text(row, 1, QUERY)?;
        let rows: i64 = session::number(row, 2, QUERY)?;
        let bytes = tables.get(&oid).map_or(0, |table| table.disk_bytes);
        if let Some(columns) = of_letters(letters)
            && wins(&columns, bytes, rows)
        {
            formats.insert(oid, letters.to_owned());
        }
    }
    Ok(formats)
}

/// The columns that letters stand for, if each of them is known.
pub(crate) fn of_letters(letters: &str) -> Option<Vec<ColumnFormat>> {
    letters.chars().map(ColumnFormat::of_letter).collect()
}

/// Whether a table is read faster in binary format. The server may not know how many rows it has.
fn wins(columns: &[ColumnFormat], disk_bytes: u64, rows: i64) -> bool {
    let (mut gains, mut fixed_bytes, mut has_text) = (0, 0, false);
    for (gain, bytes) in columns.iter().map(|column| gain(*column)) {
        gains += gain;
        match bytes {
            Some(bytes) => fixed_bytes += bytes,
            None => has_text = true,
        }
    }
    if has_text && rows > 0 {
        let row_bytes = i64::try_from(disk_bytes).unwrap_or(i64::MAX) / rows;
        let text_bytes = (row_bytes - ROW_HEADER_BYTES - fixed_bytes).max(0);
        gains += text_bytes.saturating_mul(GAIN_OF_TEXT) / 100;
    }
    gains >= LEAST_GAIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_times_and_long_texts_win_and_those_of_numbers_do_not() {
        let wins = |letters: &str, row_bytes: u64| {
            wins(&of_letters(letters).unwrap(), row_bytes * 1000, 1000)
        };
        assert!(wins("8tt", 500));
        assert!(wins("8uztj", 200));
        assert!(!wins("444", 40));
        assert!(!wins("8znnn", 80));
        assert!(!wins("ttt", 40));
        assert!(of_letters("8-t").is_none());
    }
}
