//! The server's own errors and notices.

use std::fmt;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

/// The longest text kept of one field, in bytes; the server may quote a whole row.
const LONGEST_FIELD: usize = 8 * 1024;

/// An error or notice that the server sent, with the fields that the protocol defines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    severity: String,
    sqlstate: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    context: Option<String>,
    position: Option<u32>,
    schema: Option<String>,
    table: Option<String>,
    column: Option<String>,
    constraint: Option<String>,
}

impl ServerError {
    /// Reads the fields; what can't be read is left out, so that an error is never lost.
    pub(crate) fn read(mut fields: ErrorFields<'_>) -> Self {
        let mut error = ServerError::default();
        let mut localized = String::new();
        while let Ok(Some(field)) = fields.next() {
            let value = cut(&String::from_utf8_lossy(field.value_bytes()));
            match field.type_() {
                b'S' => localized = value,
                b'V' => error.severity = value,
                b'C' => error.sqlstate = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'W' => error.context = Some(value),
                b'P' => error.position = value.parse().ok(),
                b's' => error.schema = Some(value),
                b't' => error.table = Some(value),
                b'c' => error.column = Some(value),
                b'n' => error.constraint = Some(value),
                _ => {}
            }
        }
        if error.severity.is_empty() {
            error.severity = localized;
        }
        error
    }

    /// ERROR, FATAL or PANIC; for a notice WARNING, NOTICE, DEBUG, INFO or LOG. Never translated.
    pub fn severity(&self) -> &str {
        &self.severity
    }

    /// The five-character code.
    pub fn sqlstate(&self) -> &str {
        &self.sqlstate
    }

    /// The primary message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The secondary message.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The server's suggestion.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Where it happened: for COPY the table, line and column.
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// Where in the statement, in characters from 1.
    pub fn position(&self) -> Option<u32> {
        self.position
    }

    /// The schema that the error is about.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The table that the error is about.
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// The column that the error is about.
    pub fn column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    /// The constraint that the error is about.
    pub fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }

    /// Whether the session is over with this error.
    pub fn is_fatal(&self) -> bool {
        self.severity == "FATAL" || self.severity == "PANIC"
    }

    /// Whether a new attempt on a new connection may well succeed.
    pub fn is_transient(&self) -> bool {
        match self.sqlstate.as_str() {
            // Serialization failure, deadlock, lock not available, object in use.
            "40001" | "40P01" | "55P03" | "55006" => true,
            // Too many connections, out of memory, configured limit.
            "53300" | "53200" | "53400" => true,
            // Shut down by an administrator, by a crash, starting up, idle session ended.
            "57P01" | "57P02" | "57P03" | "57P05" => true,
            // I/O error, and the snapshot-too-old family, are not: they come again.
            code => code.starts_with("08"),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.severity, self.message, self.sqlstate)?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        if let Some(context) = &self.context {
            write!(f, "; context: {}", context.replace('\n', ", "))?;
        }
        if let Some(position) = self.position {
            write!(f, "; at character {position}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

fn cut(text: &str) -> String {
    if text.len() <= LONGEST_FIELD {
        return text.to_owned();
    }
    let end = (0..=LONGEST_FIELD).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_codes_are_those_that_pass_by_themselves() {
        let with = |code: &str| ServerError { sqlstate: code.into(), ..Default::default() };
        for code in ["57P01", "53300", "08006", "40001", "57P03"] {
            assert!(with(code).is_transient(), "{code}");
        }
        for code in ["42P01", "28P01", "57014", "58030", "XX001", ""] {
            assert!(!with(code).is_transient(), "{code}");
        }
    }

    #[test]
    fn a_long_field_is_cut_at_a_character() {
        let text = "ü".repeat(LONGEST_FIELD);
        let short = cut(&text);
        assert!(short.len() <= LONGEST_FIELD + '…'.len_utf8());
        assert!(short.ends_with('…'));
    }
}
