//! COPY in binary format, turned into the text that the server would have sent.
//!
//! To make text of values and to look at every byte of it for what must be escaped takes a server
//! much of a COPY's time. The binary format leaves that to the client, which does it for the types
//! here at a fraction of the cost. The text is the same to the last byte: that of a session with
//! `datestyle = iso`, `bytea_output = hex` and, for `timestamptz`, `timezone = UTC`.

mod text;
mod value;

use crate::connection::CopySink;
use text::{LONGEST_ROW, Text};
use value::Dates;

/// How data in binary format begin: a signature, flags and the length of an extension, both of which
/// are zero in all versions. The server may send it with the first row or in a message of its own.
pub const BINARY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What a column's values are in binary format. A type that is sent and written like another one is
/// that one here: `varchar` is `text`, and so is an enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnFormat {
    /// Its text as it is.
    Text,
    /// A version, then text.
    Jsonb,
    /// Bytes.
    Bytea,
    /// `t` or `f`.
    Bool,
    /// `smallint`.
    Int2,
    /// `integer`.
    Int4,
    /// `bigint`.
    Int8,
    /// A number without a sign.
    Oid,
    /// Digits to the base of 10000.
    Numeric,
    /// 16 bytes.
    Uuid,
    /// Days from 2000 on.
    Date,
    /// Microseconds from 2000 on.
    Timestamp,
    /// The same in UTC.
    TimestampTz,
}

/// Why data in binary format could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError<E> {
    /// They are not what the server sends for such columns.
    #[error("binary COPY data: {0}")]
    Format(&'static str),
    /// A row is longer than 1 GiB as text: no server takes it back, and none would have sent it as text.
    #[error("a row is longer than 1 GiB as text")]
    RowTooLong,
    /// The sink's.
    #[error(transparent)]
    Sink(E),
}

/// Takes binary COPY data, and gives the rows as text to another sink.
pub struct BinaryRows<'s, S> {
    columns: &'s [ColumnFormat],
    out: Text<'s, S>,
    dates: Dates,
    step: Step,
    /// The begin of what has come in part, if it must be whole.
    held: Vec<u8>,
    column: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Header,
    Fields,
    Length,
    Value { left: usize, begun: bool },
    Nothing,
}

/// A value that must be whole to be written is not longer: the largest `numeric` has 147,455 digits.
const LONGEST_WHOLE: usize = 128 << 10;

const ENDS_WITHIN: &str = "a message ends within a row";
const UNLIKE: &str = "a value is not of its column's type";

impl<'s, S: CopySink> BinaryRows<'s, S> {
    /// For rows of these columns.
    pub fn new(columns: &'s [ColumnFormat], sink: &'s mut S) -> Self {
        Self::with_limit(columns, sink, LONGEST_ROW)
    }

    fn with_limit(columns: &'s [ColumnFormat], sink: &'s mut S, longest_row: usize) -> Self {
        Self {
            columns,
            out: Text::new(sink, longest_row),
            dates: Dates::default(),
            step: Step::Header,
            held: Vec::new(),
            column: 0,
        }
    }

    /// To be called after the last message.
    ///
    /// # Errors
    /// The data had no end.
    pub fn finish(self) -> Result<(), BinaryError<S::Error>> {
        if self.step == Step::Nothing {
            Ok(())
        } else {
            Err(BinaryError::Format("they have no end"))
        }
    }

    /// A row that lies whole in one place, as nearly all do.
    #[inline]
    fn row(&mut self, row: &[u8]) -> Result<(), BinaryError<S::Error>> {
        let Some((&fields, mut rest)) = row.split_first_chunk() else {
            return Err(BinaryError::Format(ENDS_WITHIN));
        };
        if self.begins(fields)? {
            for (index, &column) in self.columns.iter().enumerate() {
                if index > 0 {
                    self.out.byte(b'\t')?;
                }
                let Some((&length, after)) = rest.split_first_chunk() else {
                    return Err(BinaryError::Format(ENDS_WITHIN));
                };
                let length = i32::from_be_bytes(length);
                if length == -1 {
                    self.out.put(br"\N")?;
                    rest = after;
                    continue;
                }
                let value = usize::try_from(length).ok().and_then(|at| after.split_at_checked(at));
                let Some((value, after)) = value else {
                    return Err(BinaryError::Format(ENDS_WITHIN));
                };
                self.value(column, value)?;
                rest = after;
            }
            self.out.end_row()?;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(BinaryError::Format("a message goes on after its row"))
        }
    }

    /// Looks at a number of fields; `false` if it says that nothing follows.
    #[inline]
    fn begins(&mut self, fields: [u8; 2]) -> Result<bool, BinaryError<S::Error>> {
        let fields = i16::from_be_bytes(fields);
        if usize::try_from(fields) == Ok(self.columns.len()) {
            return Ok(true);
        }
        if fields != -1 {
            return Err(BinaryError::Format("a row has another number of columns"));
        }
        self.step = Step::Nothing;
        Ok(false)
    }

    /// Writes a whole value.
    #[inline]
    fn value(&mut self, column: ColumnFormat, value: &[u8]) -> Result<(), BinaryError<S::Error>> {
        match column {
            ColumnFormat::Text => self.out.escaped(value),
            ColumnFormat::Jsonb => match value {
                [1, text @ ..] => self.out.escaped(text),
                _ => Err(BinaryError::Format(UNLIKE)),
            },
            ColumnFormat::Bytea => {
                self.out.put(br"\\x")?;
                self.out.hex(value)
            }
            _ => {
                let written = value::write(column, value, &mut self.dates, &mut self.out)?;
                if written { Ok(()) } else { Err(BinaryError::Format(UNLIKE)) }
            }
        }
    }

    /// Takes a part of a row, or the header.
    #[cold]
    fn part(&mut self, mut part: &[u8], message_end: bool) -> Result<(), BinaryError<S::Error>> {
        loop {
            let done = match self.step {
                Step::Header => self.header(&mut part)?,
                Step::Fields => self.fields(&mut part)?,
                Step::Length => self.length(&mut part)?,
                Step::Value { left, begun } => self.part_of_value(&mut part, left, begun)?,
                Step::Nothing => false,
            };
            if !done {
                break;
            }
        }
        if !part.is_empty() {
            return Err(BinaryError::Format("something follows their end"));
        }
        let between = matches!(self.step, Step::Fields | Step::Nothing) && self.held.is_empty();
        if message_end && !between {
            return Err(BinaryError::Format(ENDS_WITHIN));
        }
        Ok(())
    }

    /// Holds what has come until it is `length` bytes; whether it is.
    fn hold(&mut self, part: &mut &[u8], length: usize) -> bool {
        let (some, rest) = part.split_at(part.len().min(length - self.held.len()));
        self.held.extend_from_slice(some);
        *part = rest;
        self.held.len() == length
    }

    fn header(&mut self, part: &mut &[u8]) -> Result<bool, BinaryError<S::Error>> {
        if !self.hold(part, BINARY_HEADER.len()) {
            return Ok(false);
        }
        if self.held != BINARY_HEADER {
            return Err(BinaryError::Format("they begin in an unknown way"));
        }
        self.held.clear();
        self.step = Step::Fields;
        Ok(true)
    }

    fn fields(&mut self, part: &mut &[u8]) -> Result<bool, BinaryError<S::Error>> {
        if !self.hold(part, 2) {
            return Ok(false);
        }
        let fields = [self.held[0], self.held[1]];
        self.held.clear();
        if self.begins(fields)? {
            self.column = 0;
            self.begin_column()?;
        }
        Ok(true)
    }

    fn begin_column(&mut self) -> Result<(), BinaryError<S::Error>> {
        if self.column == self.columns.len() {
            self.step = Step::Fields;
            return self.out.end_row();
        }
        self.step = Step::Length;
        if self.column > 0 { self.out.byte(b'\t') } else { Ok(()) }
    }

    fn length(&mut self, part: &mut &[u8]) -> Result<bool, BinaryError<S::Error>> {
        if !self.hold(part, 4) {
            return Ok(false);
        }
        let length = i32::from_be_bytes([self.held[0], self.held[1], self.held[2], self.held[3]]);
        self.held.clear();
        match usize::try_from(length) {
            Ok(left) => self.step = Step::Value { left, begun: false },
            Err(_) if length == -1 => {
                self.out.put(br"\N")?;
                self.column += 1;
                self.begin_column()?;
            }
            Err(_) => return Err(BinaryError::Format("a value has a length below zero")),
        }
        Ok(true)
    }

    fn part_of_value(
        &mut self,
        part: &mut &[u8],
        mut left: usize,
        begun: bool,
    ) -> Result<bool, BinaryError<S::Error>> {
        let column = self.columns[self.column];
        match column {
            ColumnFormat::Text | ColumnFormat::Bytea => {
                if column == ColumnFormat::Bytea && !begun {
                    self.out.put(br"\\x")?;
                }
                let (some, rest) = part.split_at(part.len().min(left));
                match column {
                    ColumnFormat::Text => self.out.escaped(some)?,
                    _ => self.out.hex(some)?,
                }
                *part = rest;
                left -= some.len();
            }
            ColumnFormat::Jsonb => {
                let (some, rest) = part.split_at(part.len().min(left));
                match some {
                    [1, text @ ..] if !begun => self.out.escaped(text)?,
                    _ if begun => self.out.escaped(some)?,
                    [] if left > 0 => return Ok(false),
                    _ => return Err(BinaryError::Format(UNLIKE)),
                }
                *part = rest;
                left -= some.len();
            }
            _ if left > LONGEST_WHOLE => return Err(BinaryError::Format(UNLIKE)),
            _ => {
                if !self.hold(part, left) {
                    return Ok(false);
                }
                let held = std::mem::take(&mut self.held);
                self.value(column, &held)?;
                left = 0;
            }
        }
        if left > 0 {
            self.step = Step::Value { left, begun: true };
            return Ok(false);
        }
        self.column += 1;
        self.begin_column()?;
        Ok(true)
    }
}

impl<S: CopySink> CopySink for BinaryRows<'_, S> {
    type Error = BinaryError<S::Error>;

    #[inline]
    fn data(&mut self, part: &[u8], message_end: bool) -> Result<(), Self::Error> {
        if self.step == Step::Fields && self.held.is_empty() && message_end {
            self.row(part)
        } else {
            self.part(part, message_end)
        }
    }
}

impl ColumnFormat {
    /// All of them, each with a letter that stands for it.
    const LETTERS: [(Self, char); 13] = [
        (Self::Text, 't'),
        (Self::Jsonb, 'j'),
        (Self::Bytea, 'x'),
        (Self::Bool, 'b'),
        (Self::Int2, '2'),
        (Self::Int4, '4'),
        (Self::Int8, '8'),
        (Self::Oid, 'o'),
        (Self::Numeric, 'n'),
        (Self::Uuid, 'u'),
        (Self::Date, 'd'),
        (Self::Timestamp, 's'),
        (Self::TimestampTz, 'z'),
    ];

    /// The letter that stands for it.
    pub fn letter(self) -> char {
        let known = Self::LETTERS.iter().find(|(format, _)| *format == self);
        known.map_or('-', |(_, letter)| *letter)
    }

    /// What a letter stands for.
    pub fn of_letter(letter: char) -> Option<Self> {
        Self::LETTERS.iter().find(|(_, known)| *known == letter).map(|(format, _)| *format)
    }
}

#[cfg(test)]
mod tests;
