//! Tables of text.

use unicode_width::UnicodeWidthStr;

use crate::render::text::cell;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under headers.
pub(crate) struct Table {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            aligns: columns.iter().map(|(_, align)| *align).collect(),
            rows: vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    /// Adds a row, one text a column.
    pub(crate) fn row(&mut self, texts: Vec<String>) {
        self.rows.push(texts.iter().map(|text| cell(text).into_owned()).collect());
    }

    /// The table, each line after `indent`.
    pub(crate) fn render(&self, indent: &str) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|text| text.width()).max()
        };
        let widths: Vec<usize> =
            (0..self.aligns.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for ((text, width), align) in row.iter().zip(&widths).zip(&self.aligns) {
                let fill = " ".repeat(width - text.width());
                match align {
                    Align::Left => line.extend([text, fill.as_str(), "  "]),
                    Align::Right => line.extend([fill.as_str(), text, "  "]),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_also_with_wide_and_odd_names() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right)]);
        table.row(vec!["データ".to_owned(), "1 B".to_owned()]);
        table.row(vec!["a\nb".to_owned(), "12.0 kB".to_owned()]);
        assert_eq!(
            table.render("  "),
            "  NAME       SIZE\n  データ      1 B\n  a\\nb    12.0 kB\n"
        );
    }
}
