//! Route templates of HTTP functions, matched as ASP.NET matches them.

use percent_encoding::percent_decode_str;
use uuid::Uuid;

/// A parsed template such as `orders/{id:int}/{*rest}`.
#[derive(Debug, Clone)]
pub(crate) struct RouteTemplate {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone)]
enum Segment {
    Literal(String),
    Parameter { name: String, constraints: Vec<Constraint>, default: Option<String>, kind: Kind },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Required,
    Optional,
    CatchAll,
}

#[derive(Debug, Clone)]
enum Constraint {
    Int,
    Long,
    Bool,
    Number,
    Guid,
    Alpha,
    Required,
    MinLength(usize),
    MaxLength(usize),
    Min(i64),
    Max(i64),
}

impl RouteTemplate {
    /// Parses a template; says what is wrong with one that it refuses.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(['/', '~']) || text.contains('?') && !text.contains("?}") {
            return Err("a route starts with neither / nor ~ and holds no query".into());
        }
        let text = text.trim_end_matches('/');
        let mut segments = Vec::new();
        for part in text.split('/').filter(|_| !text.is_empty()) {
            segments.push(Segment::parse(part)?);
        }
        for (place, segment) in segments.iter().enumerate() {
            let Segment::Parameter { name, kind, .. } = segment else { continue };
            let rest = &segments[place + 1..];
            let fine = match kind {
                Kind::Required => true,
                Kind::CatchAll => rest.is_empty(),
                Kind::Optional => rest.iter().all(|s| {
                    matches!(s, Segment::Parameter { kind: Kind::Optional | Kind::CatchAll, .. })
                }),
            };
            if !fine {
                return Err(format!("{{{name}}} must stand at the end"));
            }
            let twice = rest.iter().any(
                |s| matches!(s, Segment::Parameter { name: n, .. } if n.eq_ignore_ascii_case(name)),
            );
            if twice {
                return Err(format!("{{{name}}} stands twice"));
            }
        }
        Ok(Self { text: text.to_owned(), segments })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Smaller is tried first: literals before constrained parameters, before parameters, before
    /// catch-alls, from the left.
    pub(crate) fn precedence(&self) -> Vec<u8> {
        let rank = |segment: &Segment| match segment {
            Segment::Literal(_) => 1,
            Segment::Parameter { kind: Kind::CatchAll, constraints, .. } => {
                if constraints.is_empty() { 6 } else { 5 }
            }
            Segment::Parameter { constraints, .. } => {
                if constraints.is_empty() {
                    4
                } else {
                    3
                }
            }
        };
        self.segments.iter().map(rank).collect()
    }

    /// The parameters of a path (without prefix and leading slash), or `None` if it does not match.
    pub(crate) fn matches(&self, path: &str) -> Option<Vec<(String, String)>> {
        let path = path.trim_end_matches('/');
        let mut parts = path.split('/').filter(|_| !path.is_empty()).peekable();
        let mut parameters = Vec::new();
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => {
                    let part = decode(parts.next()?);
                    if part.to_lowercase() != literal.to_lowercase() {
                        return None;
                    }
                }
                Segment::Parameter { name, constraints, default, kind } => {
                    let value = match kind {
                        Kind::CatchAll => {
                            let rest: Vec<String> = parts.by_ref().map(decode).collect();
                            (!rest.is_empty()).then(|| rest.join("/"))
                        }
                        _ => parts.next().filter(|part| !part.is_empty()).map(decode),
                    };
                    let value = match value.or_else(|| default.clone()) {
                        Some(value) => value,
                        None if *kind == Kind::Required => return None,
                        None => continue,
                    };
                    if !constraints.iter().all(|constraint| constraint.accepts(&value)) {
                        return None;
                    }
                    parameters.push((name.clone(), value));
                }
            }
        }
        parts.next().is_none().then_some(parameters)
    }
}

fn decode(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}

impl Segment {
    fn parse(part: &str) -> Result<Self, String> {
        if !part.contains(['{', '}']) {
            return match part.is_empty() {
                true => Err("holds an empty segment".into()),
                false => Ok(Self::Literal(part.to_owned())),
            };
        }
        let inner = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let Some(inner) = inner.filter(|inner| !inner.contains(['{', '}'])) else {
            return Err(format!(
                "{part:?} mixes text and parameters, which this host cannot match"
            ));
        };
        let (inner, mut kind) = match inner.trim_start_matches('*') {
            rest if rest.len() != inner.len() => (rest, Kind::CatchAll),
            rest => (rest, Kind::Required),
        };
        let (inner, mut default) = match inner.split_once('=') {
            Some((inner, default)) => (inner, Some(default.to_owned())),
            None => (inner, None),
        };
        let inner = match inner.strip_suffix('?') {
            Some(inner) if kind == Kind::Required => {
                kind = Kind::Optional;
                inner
            }
            _ => inner,
        };
        if default.is_some() && kind == Kind::Required {
            kind = Kind::Optional;
        }
        let mut pieces = inner.split(':');
        let name = pieces.next().unwrap_or_default();
        let named =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !named {
            return Err(format!("{part:?} has no name of letters, digits and _"));
        }
        let mut constraints = Vec::new();
        for piece in pieces {
            constraints.extend(Constraint::parse(piece)?);
        }
        if default.as_deref() == Some("") {
            default = None;
        }
        Ok(Self::Parameter { name: name.to_owned(), constraints, default, kind })
    }
}

impl Constraint {
    /// A constraint may stand for two, as `range(1,5)` does.
    fn parse(text: &str) -> Result<Vec<Self>, String> {
        let refused = || format!("the constraint {text:?} is not supported by this host");
        let (name, arguments) = match text.split_once('(') {
            Some((name, rest)) => (name, rest.strip_suffix(')').ok_or_else(refused)?),
            None => (text, ""),
        };
        let numbers = arguments.split(',').filter(|argument| !argument.is_empty());
        let numbers: Vec<i64> = numbers
            .map(|argument| argument.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| refused())?;
        let length = |number: i64| usize::try_from(number).map_err(|_| refused());
        Ok(match (name.to_lowercase().as_str(), &numbers[..]) {
            ("int", []) => vec![Self::Int],
            ("long", []) => vec![Self::Long],
            ("bool", []) => vec![Self::Bool],
            ("decimal" | "double" | "float", []) => vec![Self::Number],
            ("guid", []) => vec![Self::Guid],
            ("alpha", []) => vec![Self::Alpha],
            ("required", []) => vec![Self::Required],
            ("minlength", [least]) => vec![Self::MinLength(length(*least)?)],
            ("maxlength", [most]) => vec![Self::MaxLength(length(*most)?)],
            ("length", [exact]) => {
                vec![Self::MinLength(length(*exact)?), Self::MaxLength(length(*exact)?)]
            }
            ("length", [least, most]) => {
                vec![Self::MinLength(length(*least)?), Self::MaxLength(length(*most)?)]
            }
            ("min", [least]) => vec![Self::Min(*least)],
            ("max", [most]) => vec![Self::Max(*most)],
            ("range", [least, most]) => vec![Self::Min(*least), Self::Max(*most)],
            _ => return Err(refused()),
        })
    }

    fn accepts(&self, value: &str) -> bool {
        match self {
            Self::Int => value.parse::<i32>().is_ok(),
            Self::Long => value.parse::<i64>().is_ok(),
            Self::Bool => value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false"),
            Self::Number => value.parse::<f64>().is_ok_and(f64::is_finite),
            Self::Guid => Uuid::try_parse(value).is_ok(),
            Self::Alpha => value.bytes().all(|byte| byte.is_ascii_alphabetic()),
            Self::Required => !value.is_empty(),
            Self::MinLength(least) => value.chars().count() >= *least,
            Self::MaxLength(most) => value.chars().count() <= *most,
            Self::Min(least) => value.parse::<i64>().is_ok_and(|value| value >= *least),
            Self::Max(most) => value.parse::<i64>().is_ok_and(|value| value <= *most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(template: &str, path: &str) -> Option<String> {
        let parameters = RouteTemplate::parse(template).unwrap().matches(path)?;
        Some(parameters.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("&"))
    }

    #[test]
    fn literals_match_in_any_case_and_parameters_are_decoded() {
        assert_eq!(matched("x/{id}", "X/a%20b"), Some("id=a b".into()));
        assert_eq!(matched("x/{id}", "x/a/"), Some("id=a".into()));
        assert_eq!(matched("x/{id}", "x"), None);
        assert_eq!(matched("x/{id}", "x/a/b"), None);
        assert_eq!(matched("", ""), Some(String::new()));
        assert_eq!(matched("", "x"), None);
    }

    #[test]
    fn optional_default_and_catch_all_parameters_may_be_absent() {
        assert_eq!(matched("x/{id?}", "x"), Some(String::new()));
        assert_eq!(matched("x/{id=7}", "x"), Some("id=7".into()));
        assert_eq!(matched("x/{*rest}", "x/a/b%2Fc"), Some("rest=a/b/c".into()));
        assert_eq!(matched("x/{**rest}", "x"), Some(String::new()));
    }

    #[test]
    fn constraints_decide_whether_a_value_matches() {
        for (constraint, good, bad) in [
            ("int", "7", "a"),
            ("long", "99999999999", "1.5"),
            ("bool", "True", "1"),
            ("guid", "0f8fad5b-d9cb-469f-a165-70867728950e", "0f8fad5b"),
            ("alpha", "abc", "a1"),
            ("length(2)", "ab", "abc"),
            ("length(1,2)", "a", "abc"),
            ("minlength(2)", "ab", "a"),
            ("maxlength(2)", "ab", "abc"),
            ("range(1,5)", "5", "6"),
            ("min(3)", "3", "2"),
            ("double", "1.5", "x"),
        ] {
            let template = format!("x/{{id:{constraint}}}");
            assert!(matched(&template, &format!("x/{good}")).is_some(), "{constraint} {good}");
            assert!(matched(&template, &format!("x/{bad}")).is_none(), "{constraint} {bad}");
        }
        assert_eq!(matched("x/{id:int?}", "x"), Some(String::new()));
        assert_eq!(matched("x/{id:int:min(5)}", "x/4"), None);
    }

    #[test]
    fn literals_are_tried_before_parameters_and_those_before_catch_alls() {
        let mut templates = ["{*rest}", "a/{id}", "{x}/b", "a/b", "a/{id:int}"];
        templates.sort_by_key(|text| RouteTemplate::parse(text).unwrap().precedence());
        assert_eq!(templates, ["a/b", "a/{id:int}", "a/{id}", "{x}/b", "{*rest}"]);
    }

    #[test]
    fn templates_that_cannot_be_matched_are_refused() {
        for text in
            ["/x", "x//y", "a-{id}", "{id", "{}", "{*r}/x", "{a?}/x", "{a}/{A}", "{a:regex(x)}"]
        {
            assert!(RouteTemplate::parse(text).is_err(), "{text:?}");
        }
    }
}
