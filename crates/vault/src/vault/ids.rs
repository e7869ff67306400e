//! Names of servers, backups and runs: validated once, safe as parts of object names.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use serde::{Deserialize, Serialize};

/// Text that is not the id that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what} ({rule})")]
pub struct BadId {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl BadId {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(100).collect(), rule }
    }
}

macro_rules! id_text {
    ($id:ty) => {
        impl From<$id> for String {
            fn from(id: $id) -> Self {
                id.to_string()
            }
        }
        impl TryFrom<String> for $id {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

/// Longest name of a server, bytes.
const LONGEST_NAME: usize = 63;

/// A protected server's name in the vault: 1 to 63 of `a-z 0-9 . -`, beginning with a letter or a
/// digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerName(String);

id_text!(ServerName);

impl ServerName {
    /// The nearest valid name to `text`, such as a host name: lower case, `-` for what is not
    /// allowed, cut to length; `server` when nothing is left.
    pub fn sanitize(text: &str) -> Self {
        let mut name: String = text
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
            .skip_while(|c| !c.is_ascii_alphanumeric())
            .take(LONGEST_NAME)
            .collect();
        name.truncate(name.trim_end_matches(['-', '.']).len());
        if name.is_empty() {
            name.push_str("server");
        }
        Self(name)
    }

    /// The same with a port at its end, however long the text is.
    pub fn sanitize_with_port(text: &str, port: u16) -> Self {
        let port = format!("-{port}");
        let mut name = Self::sanitize(text).0;
        name.truncate(LONGEST_NAME - port.len());
        Self(name + &port)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServerName {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts && text.len() <= LONGEST_NAME && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            let rule = "1 to 63 of a-z 0-9 . -, beginning with a letter or digit";
            Err(BadId::new("server name", text, rule))
        }
    }
}

/// A backup's id: `<server>-20261122T225300Z`, with `-2`, `-3`, ... when that is taken. Ordered
/// by time, oldest first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId {
    time: Timestamp,
    number: u32,
    server: ServerName,
}

id_text!(BackupId);

const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";

fn parse_time(text: &str) -> Option<Timestamp> {
    let time = civil::DateTime::strptime(TIME_FORMAT, text).ok()?;
    let time = time.to_zoned(TimeZone::UTC).ok()?.timestamp();
    // One spelling only: strptime is lenient about leading zeros.
    (time.strftime(TIME_FORMAT).to_string() == text).then_some(time)
}

impl BackupId {
    /// The id of a backup of `server` that began at `time` (to the second).
    pub fn new(server: ServerName, time: Timestamp) -> Self {
        let time = Timestamp::from_second(time.as_second()).unwrap_or(time);
        Self { time, number: 1, server }
    }

    /// The id to try when this one is taken.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { number: self.number.saturating_add(1), ..self.clone() }
    }

    /// The server.
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// The time in the id, to the second.
    pub fn time(&self) -> Timestamp {
        self.time
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.server, self.time.strftime(TIME_FORMAT))?;
        if self.number > 1 {
            write!(f, "-{}", self.number)?;
        }
        Ok(())
    }
}

impl FromStr for BackupId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        // A server's name has no upper-case letter, so the time is found without doubt.
        let parse = |text: &str| -> Option<Self> {
            let (rest, last) = text.rsplit_once('-')?;
            if let Some(time) = parse_time(last) {
                return Some(Self { time, number: 1, server: rest.parse().ok()? });
            }
            let number = last.parse::<u32>().ok().filter(|n| *n > 1 && n.to_string() == last)?;
            let (server, time) = rest.rsplit_once('-')?;
            Some(Self { time: parse_time(time)?, number, server: server.parse().ok()? })
        };
        parse(text)
            .ok_or_else(|| BadId::new("backup id", text, "such as myserver-20261122T225300Z"))
    }
}

/// A run's id: `20261122T225300Z-1f3a9c02`, ordered by time, unique without asking anybody.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

id_text!(RunId);

impl RunId {
    /// A new id for a run that begins at `time`.
    pub fn new(time: Timestamp) -> Self {
        let random = uuid::Uuid::new_v4().simple().to_string();
        Self(format!("{}-{}", time.strftime(TIME_FORMAT), &random[..8]))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RunId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let good = text.split_once('-').is_some_and(|(time, random)| {
            parse_time(time).is_some() && random.len() == 8 && random.bytes().all(hex)
        });
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadId::new("run id", text, "such as 20261122T225300Z-1f3a9c02"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_kept_safe() {
        for good in ["a", "prod-1.example", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<ServerName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "A", "a/b", "a b", "ä", &"x".repeat(64), "..", "a\n"] {
            assert!(bad.parse::<ServerName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sanitize_always_gives_a_valid_name() {
        let cases = [
            ("Prod.Example.COM:5432", "prod.example.com-5432"),
            ("/var/run/postgresql", "var-run-postgresql"),
            ("../..", "server"),
            ("", "server"),
            ("İstanbul", "i-stanbul"),
        ];
        for (text, name) in cases {
            let server = ServerName::sanitize(text);
            assert_eq!(server.as_str(), name);
            assert_eq!(server.as_str().parse::<ServerName>().unwrap(), server);
        }
        assert_eq!(ServerName::sanitize(&"Y".repeat(200)).as_str(), "y".repeat(63));
        let with_port =
            |text: &str| ServerName::sanitize_with_port(text, 54321).as_str().to_owned();
        assert_eq!(with_port("db.example.org"), "db.example.org-54321");
        assert_eq!(with_port(&"Y".repeat(200)), format!("{}-54321", "y".repeat(57)));
    }

    #[test]
    fn a_backup_id_reads_back_what_it_was_made_of() {
        let server: ServerName = "my-server".parse().unwrap();
        let time: Timestamp = "2026-11-22T22:53:00.5Z".parse().unwrap();
        let id = BackupId::new(server.clone(), time);
        assert_eq!(id.to_string(), "my-server-20261122T225300Z");
        assert_eq!(id.next().next().to_string(), "my-server-20261122T225300Z-3");
        for id in [id.clone(), id.next(), id.next().next()] {
            let back: BackupId = id.to_string().parse().unwrap();
            assert_eq!((&back, back.server()), (&id, &server));
        }
    }

    #[test]
    fn backup_ids_are_ordered_by_time_and_number() {
        let parse = |text: &str| text.parse::<BackupId>().unwrap();
        let mut ids = [
            parse("b-20261122T225300Z-10"),
            parse("b-20261122T225300Z-2"),
            parse("b-20261122T225300Z"),
            parse("a-20261123T225300Z"),
        ];
        ids.sort();
        let texts = ids.map(|id| id.to_string());
        assert_eq!(texts[0], "b-20261122T225300Z");
        assert_eq!(texts[2], "b-20261122T225300Z-10");
        assert_eq!(texts[3], "a-20261123T225300Z");
    }

    #[test]
    fn other_spellings_of_an_id_are_refused() {
        for bad in [
            "s-20261122T225300Z-1",
            "s-20261122T225300Z-02",
            "s-20261122T225300",
            "s-2026112T225300Z",
            "s-20261332T225300Z",
            "-20261122T225300Z",
            "S-20261122T225300Z",
            "s/../x-20261122T225300Z",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
        for bad in ["20261122T225300Z", "20261122T225300Z-1f3a9c0G", "../20261122T225300Z-1f3a9c02"]
        {
            assert!(bad.parse::<RunId>().is_err(), "{bad}");
        }
        let run = RunId::new("2026-11-22T22:53:00Z".parse().unwrap());
        assert_eq!(run.to_string().parse::<RunId>().unwrap(), run);
    }
}
