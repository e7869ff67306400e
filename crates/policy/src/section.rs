//! One table of the file, read key by key.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::near;
use crate::problem::{Report, Spot, shown};

/// What became of a key.
#[derive(Clone, Debug)]
pub(crate) enum Field<T> {
    /// It is not there.
    Absent,
    /// It is wrong, and that is reported.
    Bad,
    /// It is right.
    Good(T),
}

impl<T> Field<T> {
    /// This one, or else that of the defaults.
    pub(crate) fn or(self, default: &Field<T>) -> Field<T>
    where
        T: Clone,
    {
        match self {
            Field::Absent => default.clone(),
            field => field,
        }
    }

    /// The value, or the usual one; `None` if it is wrong.
    pub(crate) fn or_usual(self, usual: T) -> Option<T> {
        match self {
            Field::Absent => Some(usual),
            Field::Bad => None,
            Field::Good(value) => Some(value),
        }
    }

    /// The value, if it is there and right.
    pub(crate) fn good(self) -> Option<T> {
        match self {
            Field::Good(value) => Some(value),
            Field::Absent | Field::Bad => None,
        }
    }

    pub(crate) fn and_then<U>(self, next: impl FnOnce(T) -> Option<U>) -> Field<U> {
        match self {
            Field::Absent => Field::Absent,
            Field::Bad => Field::Bad,
            Field::Good(value) => next(value).map_or(Field::Bad, Field::Good),
        }
    }
}

/// A table and where it stands.
pub(crate) struct Section<'t> {
    table: &'t DeTable<'t>,
    spot: Spot,
    /// What stands before a key's name in messages, such as `vault.`.
    prefix: String,
}

impl<'t> Section<'t> {
    /// The whole file.
    pub(crate) fn root(table: &'t DeTable<'t>, span: Range<usize>) -> Self {
        let spot = Spot { server: None, key: "the file".to_owned(), span };
        Section { table, spot, prefix: String::new() }
    }

    /// The table of one server: its name if it has one, otherwise its number in the file.
    pub(crate) fn server(
        table: &'t DeTable<'t>,
        span: Range<usize>,
        name: Option<&str>,
        number: usize,
    ) -> Self {
        let (prefix, key) = match name {
            Some(_) => (String::new(), "server".to_owned()),
            None => (format!("server[{number}]."), format!("server[{number}]")),
        };
        Section { table, spot: Spot { server: name.map(str::to_owned), key, span }, prefix }
    }

    /// One table of a list that is no server's, such as `target[2]`.
    pub(crate) fn item(
        table: &'t DeTable<'t>,
        span: Range<usize>,
        list: &str,
        number: usize,
    ) -> Self {
        let key = format!("{list}[{number}]");
        let prefix = format!("{key}.");
        Section { table, spot: Spot { server: None, key, span }, prefix }
    }

    /// The tables of a list; what is no table is reported. `example` is how the list is written.
    pub(crate) fn tables(
        &self,
        key: &str,
        example: &str,
        report: &mut Report<'_>,
    ) -> Vec<Section<'t>> {
        let Some((value, spot)) = self.value(key) else { return Vec::new() };
        let DeValue::Array(list) = value else {
            let found = type_name(value);
            report.add(&spot, format!("expected a list, found {found}; write {example}"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in list.iter().enumerate() {
            let name = format!("{}[{}]", spot.key, index + 1);
            let DeValue::Table(table) = item.get_ref() else {
                let found = type_name(item.get_ref());
                let spot = Spot { server: None, key: name, span: item.span() };
                report.add(&spot, format!("expected a table, found {found}; write {example}"));
                continue;
            };
            sections.push(Section::item(table, item.span(), &spot.key, index + 1));
        }
        sections
    }

    /// A text that must be there and not be empty.
    pub(crate) fn required_text(
        &self,
        key: &str,
        example: &str,
        report: &mut Report<'_>,
    ) -> Option<(&'t str, Spot)> {
        match self.text(key, example, report) {
            Field::Good((text, spot)) if !text.trim().is_empty() => Some((text, spot)),
            Field::Good((_, spot)) => {
                report.add(&spot, format!("is empty; write such as {example}"));
                None
            }
            Field::Absent => {
                report.add(&self.missing(key), format!("missing; write such as {example}"));
                None
            }
            Field::Bad => None,
        }
    }

    /// A table below another one.
    pub(crate) fn below(&self, table: &'t DeTable<'t>, spot: Spot) -> Self {
        let prefix = format!("{}.", spot.key);
        Section { table, spot, prefix }
    }

    /// The place of a key that is missing: that of the table.
    pub(crate) fn missing(&self, key: &str) -> Spot {
        Spot { key: format!("{}{key}", self.prefix), ..self.spot.clone() }
    }

    /// The line that it begins on, from 1.
    pub(crate) fn line(&self, report: &Report<'_>) -> usize {
        report.problem(&self.spot, "").line()
    }

    /// Reports keys that are neither known nor looked at `elsewhere`.
    pub(crate) fn check_keys(&self, known: &[&str], elsewhere: &[&str], report: &mut Report<'_>) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) || elsewhere.contains(&name) {
                continue;
            }
            let message = if report.is_full() {
                String::new()
            } else if let Some(near) = near::nearest(name, known.iter().copied()) {
                format!("unknown key; did you mean {near}?")
            } else {
                format!("unknown key; what can stand here is {}", known.join(", "))
            };
            report.add(&self.spot_of(name, key.span()), message);
        }
    }

    /// A value and its place.
    pub(crate) fn value(&self, key: &str) -> Option<(&'t DeValue<'t>, Spot)> {
        let value: &Spanned<DeValue<'t>> = self.table.get(key)?;
        Some((value.get_ref(), self.spot_of(key, value.span())))
    }

    /// A text. `example` is a line as it should be, for the message.
    pub(crate) fn text(
        &self,
        key: &str,
        example: &str,
        report: &mut Report<'_>,
    ) -> Field<(&'t str, Spot)> {
        let Some((value, spot)) = self.value(key) else { return Field::Absent };
        match value {
            DeValue::String(text) => Field::Good((text, spot)),
            other => {
                let found = type_name(other);
                report.add(
                    &spot,
                    format!("expected a text in quotes, found {found}; write {example}"),
                );
                Field::Bad
            }
        }
    }

    /// A whole number within a range.
    pub(crate) fn number(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<u32>,
        report: &mut Report<'_>,
    ) -> Field<u32> {
        let Some((value, spot)) = self.value(key) else { return Field::Absent };
        let found = match value {
            DeValue::Integer(integer) => {
                let number = u32::from_str_radix(integer.as_str(), integer.radix());
                match number {
                    Ok(number) if range.contains(&number) => return Field::Good(number),
                    _ => shown(&integer.to_string()),
                }
            }
            other => type_name(other).to_owned(),
        };
        let (least, most) = (range.start(), range.end());
        let way_out = format!("expected a whole number from {least} to {most}, found {found}");
        report.add(&spot, format!("{way_out}; write such as {key} = {}", 2.max(*least)));
        Field::Bad
    }

    /// Yes or no.
    pub(crate) fn flag(&self, key: &str, report: &mut Report<'_>) -> Field<bool> {
        let Some((value, spot)) = self.value(key) else { return Field::Absent };
        if let DeValue::Boolean(flag) = value {
            return Field::Good(*flag);
        }
        let found = type_name(value);
        report.add(
            &spot,
            format!("expected true or false without quotes, found {found}; write {key} = true"),
        );
        Field::Bad
    }

    fn spot_of(&self, key: &str, span: Range<usize>) -> Spot {
        let server = self.spot.server.clone();
        Spot { server, key: format!("{}{key}", self.prefix), span }
    }
}

/// The type of a value, for messages.
pub(crate) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time without quotes",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
