//! The password file: `host:port:database:user:password`, one per line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Host, Place, Secret};

/// More than this of a password file is not read.
const LONGEST: u64 = 4 * 1024 * 1024;

/// The first matching line's password. As in libpq, a file that can't be used is passed over
/// with a warning: the server may want no password.
pub(super) fn find(file: &Path, host: &Host, database: &str, user: &str) -> Option<Secret> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "cannot read the password file");
            }
            return None;
        }
    };
    let meta = opened.metadata().ok()?;
    if !meta.is_file() {
        tracing::warn!(file = %file.display(), "the password file is not a plain file; not used");
        return None;
    }
    if meta.mode() & 0o077 != 0 {
        tracing::warn!(
            file = %file.display(),
            "the password file is open to group or others; not used. chmod 0600 it"
        );
        return None;
    }
    let wanted = [host_name(host), host.port.to_string(), database.to_owned(), user.to_owned()];
    let lines = BufReader::new(opened.take(LONGEST)).split(b'\n');
    lines.map_while(Result::ok).find_map(|line| matching(&String::from_utf8_lossy(&line), &wanted))
}

/// The first column's word for a host: the folder of a socket is called `localhost` where it
/// is the usual one.
fn host_name(host: &Host) -> String {
    match &host.place {
        Place::Unix(folder) if super::build::is_usual_socket_folder(folder) => "localhost".into(),
        _ => host.name(),
    }
}

/// The password of a line if its four other fields match.
fn matching(line: &str, wanted: &[String; 4]) -> Option<Secret> {
    let line = line.trim_end_matches('\r');
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    for want in wanted {
        let (field, after) = field(rest)?;
        if rest.split(':').next() != Some("*") && field != *want {
            return None;
        }
        rest = after;
    }
    let mut password = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => password.extend(chars.next()),
            ':' => break,
            c => password.push(c),
        }
    }
    Some(Secret(password))
}

/// A field without its escapes, and what follows its colon.
fn field(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            ':' => return Some((value, &text[at + 1..])),
            c => value.push(c),
        }
    }
    None
}

/// Whether there is a password file that is left aside because others may read it.
pub(crate) fn is_ignored(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| !meta.is_file() || meta.mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> [String; 4] {
        ["h".into(), "5432".into(), "d:b".into(), "u".into()]
    }

    #[test]
    fn a_line_matches_by_words_stars_and_escapes() {
        let password = |line: &str| matching(line, &wanted()).map(|secret| secret.0);
        assert_eq!(password("h:5432:d\\:b:u:pw"), Some("pw".into()));
        assert_eq!(password("*:*:*:*:p\\:w\\\\"), Some("p:w\\".into()));
        assert_eq!(password("h:5432:d\\:b:u:pw\r"), Some("pw".into()));
        assert_eq!(password("h:5433:*:u:pw"), None);
        assert_eq!(password("#:*:*:*:pw"), None);
        assert_eq!(password("h:5432:*"), None);
        assert_eq!(password(""), None);
        // An escaped star is a star, not a wildcard.
        assert_eq!(password("\\*:*:*:*:pw"), None);
    }
}
