//! The keys of connection strings: which are known, and what stands for them in the environment.

use super::ConfigError;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// It has an effect here.
    Yes,
    /// libpq knows it, and nothing is lost by ignoring it.
    Ignored,
    /// libpq knows it; only these values mean what happens here anyway.
    Only(&'static [&'static str]),
    /// libpq knows it, and ignoring it would not be safe; the text says what to do.
    Refused(&'static str),
}

/// A key, its environment variable, its use.
pub(super) struct Key(pub(super) &'static str, pub(super) Option<&'static str>, pub(super) Use);

const NO_CRL: &str = "revocation lists are not supported; remove it";
const NO_OAUTH: &str = "OAuth is not supported; pass an access token as the password";

/// All keys of libpq 18.
pub(super) const KEYS: &[Key] = &[
    Key("service", Some("PGSERVICE"), Use::Yes),
    Key("servicefile", Some("PGSERVICEFILE"), Use::Yes),
    Key("host", Some("PGHOST"), Use::Yes),
    Key("hostaddr", Some("PGHOSTADDR"), Use::Yes),
    Key("port", Some("PGPORT"), Use::Yes),
    Key("dbname", Some("PGDATABASE"), Use::Yes),
    Key("user", Some("PGUSER"), Use::Yes),
    Key("password", Some("PGPASSWORD"), Use::Yes),
    Key("passfile", Some("PGPASSFILE"), Use::Yes),
    Key("channel_binding", Some("PGCHANNELBINDING"), Use::Yes),
    Key("require_auth", Some("PGREQUIREAUTH"), Use::Yes),
    Key("connect_timeout", Some("PGCONNECT_TIMEOUT"), Use::Yes),
    Key("client_encoding", Some("PGCLIENTENCODING"), Use::Ignored),
    Key("options", Some("PGOPTIONS"), Use::Yes),
    Key("application_name", Some("PGAPPNAME"), Use::Yes),
    Key("fallback_application_name", None, Use::Yes),
    Key("keepalives", None, Use::Yes),
    Key("keepalives_idle", None, Use::Yes),
    Key("keepalives_interval", None, Use::Yes),
    Key("keepalives_count", None, Use::Yes),
    Key("tcp_user_timeout", None, Use::Yes),
    Key("sslmode", Some("PGSSLMODE"), Use::Yes),
    Key("sslnegotiation", Some("PGSSLNEGOTIATION"), Use::Yes),
    Key("sslrootcert", Some("PGSSLROOTCERT"), Use::Yes),
    Key("sslcert", Some("PGSSLCERT"), Use::Yes),
    Key("sslkey", Some("PGSSLKEY"), Use::Yes),
    Key(
        "sslpassword",
        None,
        Use::Refused("encrypted client keys are not supported; decrypt the key file"),
    ),
    Key("sslcertmode", Some("PGSSLCERTMODE"), Use::Only(&["allow"])),
    Key("sslcrl", Some("PGSSLCRL"), Use::Refused(NO_CRL)),
    Key("sslcrldir", Some("PGSSLCRLDIR"), Use::Refused(NO_CRL)),
    Key("sslsni", Some("PGSSLSNI"), Use::Yes),
    Key("sslcompression", Some("PGSSLCOMPRESSION"), Use::Ignored),
    Key(
        "sslkeylogfile",
        None,
        Use::Refused("the keys of a session are never written down; remove it"),
    ),
    Key("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), Use::Yes),
    Key("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), Use::Yes),
    Key("min_protocol_version", Some("PGMINPROTOCOLVERSION"), Use::Only(&["3.0"])),
    Key("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), Use::Ignored),
    Key("gssencmode", Some("PGGSSENCMODE"), Use::Only(&["disable", "prefer"])),
    Key("krbsrvname", Some("PGKRBSRVNAME"), Use::Ignored),
    Key("gsslib", Some("PGGSSLIB"), Use::Ignored),
    Key("gssdelegation", Some("PGGSSDELEGATION"), Use::Ignored),
    Key(
        "requirepeer",
        Some("PGREQUIREPEER"),
        Use::Refused("the peer of a Unix socket is not checked here; remove it"),
    ),
    Key("replication", None, Use::Only(&["false", "off", "no", "0"])),
    Key("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Use::Yes),
    Key("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Use::Only(&["disable"])),
    Key("scram_client_key", None, Use::Refused("pass the password instead")),
    Key("scram_server_key", None, Use::Refused("pass the password instead")),
    Key("oauth_issuer", None, Use::Refused(NO_OAUTH)),
    Key("oauth_client_id", None, Use::Refused(NO_OAUTH)),
    Key("oauth_client_secret", None, Use::Refused(NO_OAUTH)),
    Key("oauth_scope", None, Use::Refused(NO_OAUTH)),
];

/// Whether libpq has a key of this name.
pub(super) fn is_known(name: &str) -> bool {
    KEYS.iter().any(|key| key.0 == name)
}

/// Whether the value of a key is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    name.contains("password") || name.contains("secret") || name.starts_with("scram_")
}

/// Checks the pairs of a connection string, as [`check`] does. Here a password that was not quoted or
/// encoded becomes a key or part of another value: what may be one is not repeated.
pub(super) fn check_pairs(pairs: &[(String, String)], origin: &str) -> Result<(), ConfigError> {
    const PASSWORDS: [&str; 4] = ["password=", "passwd=", "pwd=", "pass="];
    let mut after_secret = false;
    for (at, (name, value)) in pairs.iter().enumerate() {
        if !is_known(name) && (after_secret || nearest(name).is_empty()) {
            let place = match at.checked_sub(1).and_then(|before| pairs.get(before)) {
                Some((before, _)) => format!("the key behind {before}"),
                None => "the first key".to_owned(),
            };
            return Err(ConfigError::new(format!(
                "{place} in {origin} is unknown, and not shown, as it may be a part of a password; \
                 a password with blanks must stand in quotes{}",
                near("")
            )));
        }
        // What psql is told by `options` may be called anything.
        let lower = value.to_ascii_lowercase();
        if !is_secret(name) && name != "options" && PASSWORDS.iter().any(|one| lower.contains(one))
        {
            return Err(ConfigError::new(format!(
                "the value of {name} in {origin} has a password in it; \
                 blanks stand between key=value pairs"
            )));
        }
        check(name, value, origin)?;
        after_secret |= is_secret(name);
    }
    Ok(())
}

/// Checks that a key is known and its value is one that can be honoured.
///
/// `origin` says where the key was read, for the message.
pub(super) fn check(name: &str, value: &str, origin: &str) -> Result<(), ConfigError> {
    let Some(Key(_, _, usage)) = KEYS.iter().find(|key| key.0 == name) else {
        return Err(ConfigError::new(format!("unknown key \"{name}\" in {origin}{}", near(name))));
    };
    if value.contains('\0') {
        return Err(ConfigError::new(format!("{name} in {origin} contains a zero byte")));
    }
    match usage {
        Use::Yes | Use::Ignored => Ok(()),
        _ if value.is_empty() => Ok(()),
        Use::Only(values) if values.contains(&value) => Ok(()),
        Use::Only(values) => Err(ConfigError::new(format!(
            "{name}={} in {origin} is not supported; remove it or use {}",
            if value.contains('=') { "(hidden)" } else { value },
            values.join(" or ")
        ))),
        Use::Refused(advice) => {
            Err(ConfigError::new(format!("{name} in {origin} is not supported: {advice}")))
        }
    }
}

/// The known names nearest to a wrong one, as a half sentence.
fn near(name: &str) -> String {
    let names: Vec<String> =
        nearest(name).iter().take(2).map(|known| format!("\"{known}\"")).collect();
    if names.is_empty() {
        "; the keys are those of libpq, such as host, port, user, dbname, sslmode".to_owned()
    } else {
        format!("; did you mean {}?", names.join(" or "))
    }
}

/// The known names near to a wrong one, the nearest first.
fn nearest(name: &str) -> Vec<&'static str> {
    let lower = name.to_ascii_lowercase().replace('-', "_");
    let aliases: &[(&str, &'static str)] = &[
        ("database", "dbname"),
        ("db", "dbname"),
        ("username", "user"),
        ("server", "host"),
        ("hostname", "host"),
        ("pwd", "password"),
        ("pass", "password"),
        ("ssl", "sslmode"),
        ("timeout", "connect_timeout"),
    ];
    if let Some((_, known)) = aliases.iter().find(|(alias, _)| *alias == lower) {
        return vec![*known];
    }
    let mut found: Vec<(usize, &str)> = KEYS
        .iter()
        .map(|key| (distance(&lower, key.0), key.0))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 5)
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, known)| known).collect()
}

/// The number of edits between two names; two neighbours that changed places are one edit. A
/// long wrong name is cut, so that this stays cheap.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(64).collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let cost = usize::from(left[i - 1] != right[j - 1]);
            let mut least = (rows[i - 1][j - 1] + cost).min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_listed_once() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(KEYS[at + 1..].iter().all(|other| other.0 != key.0), "{}", key.0);
        }
    }

    #[test]
    fn a_misspelt_key_names_its_neighbour() {
        assert_eq!(near("hots"), "; did you mean \"host\"?");
        assert_eq!(near("sslmod"), "; did you mean \"sslmode\"?");
        assert_eq!(near("database"), "; did you mean \"dbname\"?");
        assert!(near("xyzzy").contains("the keys are those of libpq"));
    }
}
