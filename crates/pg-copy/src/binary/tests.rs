use std::convert::Infallible;

use super::*;

#[derive(Default)]
struct Collect {
    rows: Vec<String>,
    part: Vec<u8>,
}

impl CopySink for Collect {
    type Error = Infallible;

    fn data(&mut self, part: &[u8], row_end: bool) -> Result<(), Infallible> {
        self.part.extend_from_slice(part);
        if row_end {
            self.rows.push(String::from_utf8(std::mem::take(&mut self.part)).unwrap());
        }
        Ok(())
    }
}

const COLUMNS: [ColumnFormat; 6] = [
    ColumnFormat::Int8,
    ColumnFormat::Text,
    ColumnFormat::Jsonb,
    ColumnFormat::Bytea,
    ColumnFormat::Numeric,
    ColumnFormat::Uuid,
];

/// A row as the server sends it.
fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut row = (values.len() as i16).to_be_bytes().to_vec();
    for value in values {
        match value {
            Some(value) => {
                row.extend_from_slice(&(value.len() as i32).to_be_bytes());
                row.extend_from_slice(value);
            }
            None => row.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }
    row
}

fn messages() -> Vec<Vec<u8>> {
    let long = "a\tb\\c\nlonger than a block, without anything".repeat(4);
    // -12.0345
    let numeric = [0, 2, 0, 0, 0x40, 0, 0, 4, 0, 12, 1, 89];
    let full = row(&[
        Some(&(-5_i64).to_be_bytes()),
        Some(long.as_bytes()),
        Some(b"\x01{\"a\": \"\\\"\"}"),
        Some(&[0, 255, 16]),
        Some(&numeric),
        Some(&[0xab; 16]),
    ]);
    let empty = row(&[None, Some(b""), Some(b"\x01"), Some(b""), None, None]);
    let first = [&BINARY_HEADER[..], &full].concat();
    vec![first, empty, full, (-1_i16).to_be_bytes().to_vec()]
}

fn text() -> Vec<String> {
    let long = "a\\tb\\\\c\\nlonger than a block, without anything".repeat(4);
    let id = "abababab-abab-abab-abab-abababababab";
    let full = format!("-5\t{long}\t{{\"a\": \"\\\\\"\"}}\t\\\\x00ff10\t-12.0345\t{id}\n");
    vec![full.clone(), "\\N\t\t\t\\\\x\t\\N\t\\N\n".to_owned(), full]
}

#[test]
fn rows_are_the_same_however_messages_are_cut() {
    let longest = messages().iter().map(Vec::len).max().unwrap();
    for at in 0..=longest {
        let mut collect = Collect::default();
        let mut rows = BinaryRows::new(&COLUMNS, &mut collect);
        for message in messages() {
            let (one, two) = message.split_at(at.min(message.len()));
            if !one.is_empty() && !two.is_empty() {
                rows.data(one, false).unwrap();
                rows.data(two, true).unwrap();
            } else {
                rows.data(&message, true).unwrap();
            }
        }
        rows.finish().unwrap();
        assert_eq!(collect.rows, text(), "cut at {at}");
    }
    let mut collect = Collect::default();
    let mut rows = BinaryRows::new(&COLUMNS, &mut collect);
    for message in messages() {
        let (last, others) = message.split_last().unwrap();
        for byte in others {
            rows.data(&[*byte], false).unwrap();
        }
        rows.data(&[*last], true).unwrap();
    }
    rows.finish().unwrap();
    assert_eq!(collect.rows, text());
}

#[test]
fn a_row_longer_than_the_buffer_comes_in_parts() {
    let value = vec![b'\\'; 300_000];
    let message = [&BINARY_HEADER[..], &row(&[Some(&value)])].concat();
    for part in [message.len(), 256 << 10, 1000] {
        let mut collect = Collect::default();
        let mut rows = BinaryRows::new(&[ColumnFormat::Text], &mut collect);
        let parts: Vec<&[u8]> = message.chunks(part).collect();
        for (index, some) in parts.iter().enumerate() {
            rows.data(some, index + 1 == parts.len()).unwrap();
        }
        rows.data(&row(&[Some(&value)]), true).unwrap();
        rows.data(&[0xff, 0xff], true).unwrap();
        rows.finish().unwrap();
        let expected = format!("{}\n", "\\".repeat(600_000));
        assert!(collect.rows == [expected.clone(), expected], "in parts of {part}");
    }
}

#[test]
fn a_row_that_no_server_would_take_back_is_an_error() {
    let value = vec![b'x'; 300_000];
    for (limit, fits) in [(400_000, true), (300_000, false)] {
        let mut collect = Collect::default();
        let mut rows = BinaryRows::with_limit(&[ColumnFormat::Text], &mut collect, limit);
        let first = rows.data(&[&BINARY_HEADER[..], &row(&[Some(&value)])].concat(), true);
        let second = first.and_then(|()| rows.data(&row(&[Some(&value)]), true));
        assert_eq!(second.is_ok(), fits, "{limit}");
        assert_eq!(matches!(second, Err(BinaryError::RowTooLong)), !fits, "{second:?}");
    }
}

#[test]
fn what_no_server_sends_is_an_error() {
    let good = messages();
    let with = |message: &[u8]| {
        let mut collect = Collect::default();
        let mut rows = BinaryRows::new(&COLUMNS, &mut collect);
        rows.data(&good[0], true).unwrap();
        rows.data(message, true).and_then(|()| rows.finish()).unwrap_err().to_string()
    };
    assert!(with(&good[1]).contains("no end"));
    assert!(with(&[0]).contains("within a row"));
    assert!(with(&row(&[None])).contains("number of columns"));
    assert!(with(&good[2][..good[2].len() - 1]).contains("within a row"));
    assert!(with(&[&good[1][..], &[0]].concat()).contains("after its row"));
    assert!(with(&[0, 6, 0x80, 0, 0, 0]).contains("within a row"));
    assert!(with(&row(&[Some(&[1; 7]), None, None, None, None, None])).contains("column's type"));
    assert!(with(&row(&[None, None, Some(&[2, 3]), None, None, None])).contains("column's type"));
    assert!(with(&row(&[None, None, None, None, Some(&[0, 9, 0, 0]), None])).contains("type"));
    let mut collect = Collect::default();
    let mut rows = BinaryRows::new(&COLUMNS, &mut collect);
    let error = rows.data(b"PGCOPY\n\xff\r\n\0\0\x01\0\0\0\0\0\0", true).unwrap_err();
    assert!(error.to_string().contains("unknown way"), "{error}");
}

#[test]
fn each_format_has_a_letter_of_its_own() {
    for (format, letter) in ColumnFormat::LETTERS {
        assert_eq!((format.letter(), ColumnFormat::of_letter(letter)), (letter, Some(format)));
    }
    assert_eq!(ColumnFormat::of_letter('-'), None);
}
