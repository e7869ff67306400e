//! Rows of query answers, as text.

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::DataRowBody;

use crate::error::Error;

/// One row of a query's answer; the cells are the server's text form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    data: Vec<u8>,
    cells: Vec<Option<(usize, usize)>>,
}

impl Row {
    /// The cell as text: `None` where it is NULL or there is no such column.
    ///
    /// Every cell is UTF-8 unless [`crate::ConnectOptions::raw_text`] was chosen; then a cell
    /// that is not UTF-8 also gives `None` and must be read with [`Row::get_bytes`].
    pub fn get(&self, index: usize) -> Option<&str> {
        self.get_bytes(index).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The cell's bytes: `None` where it is NULL or there is no such column.
    pub fn get_bytes(&self, index: usize) -> Option<&[u8]> {
        let (start, end) = (*self.cells.get(index)?)?;
        self.data.get(start..end)
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether the row has no columns.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Takes over a message's content, keeping this row's memory.
    pub(crate) fn fill(&mut self, body: &DataRowBody, raw_text: bool) -> Result<(), Error> {
        let broken = |_| Error::protocol("a row's cells do not fit into its message");
        self.data.clear();
        self.cells.clear();
        self.data.extend_from_slice(body.buffer());
        let mut ranges = body.ranges();
        while let Some(range) = ranges.next().map_err(broken)? {
            if let Some(range) = &range
                && !raw_text
                && std::str::from_utf8(self.data.get(range.clone()).unwrap_or(b"\xff")).is_err()
            {
                return Err(Error::protocol(format!(
                    "column {} of the answer is not UTF-8 (a database with encoding SQL_ASCII?); \
                     connect with raw_text and read it as bytes",
                    self.cells.len() + 1
                )));
            }
            self.cells.push(range.map(|range| (range.start, range.end)));
        }
        Ok(())
    }
}
