//! `postgresql://user:password@host:port,host2/dbname?key=value`

use percent_encoding::percent_decode_str;

use super::ConfigError;

const ORIGIN: &str = "the connection URI";
const ENCODE: &str =
    "the characters / ? # @ : % in a user's name or password must be percent-encoded";

/// The rest of a URI behind its scheme, or `None` if this is not a URI.
pub(super) fn strip_scheme(text: &str) -> Option<&str> {
    let text = text.trim();
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// Takes the parts of a URI (without scheme) as keys and values; keys are not checked yet.
///
/// # Errors
/// The part that is wrong; the parts that may hold a password are never repeated.
pub(super) fn split(rest: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let mut pairs = Vec::new();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, q)| (rest, Some(q)));
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(rest, path)| (rest, path));
    let hosts = match authority.rsplit_once('@') {
        Some((userinfo, hosts)) => {
            user_and_password(userinfo, &mut pairs)?;
            hosts
        }
        None => authority,
    };
    // libpq takes it for any other character. Behind the password it is more likely a mistake.
    if [hosts, path, query.unwrap_or_default()].iter().any(|part| part.contains('#')) {
        return Err(ConfigError::new(format!("{ORIGIN} contains `#`; {ENCODE}")));
    }
    host_list(hosts, &mut pairs)?;
    if path.contains(['@', '/']) {
        return Err(ConfigError::new(format!(
            "the database name in {ORIGIN} contains `@` or `/`; {ENCODE}, and so in the database name"
        )));
    }
    if !path.is_empty() {
        pairs.push(("dbname".to_owned(), decode(path, "the database name")?));
    }
    for parameter in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let Some((key, value)) = parameter.split_once('=') else {
            return Err(ConfigError::new(format!(
                "a parameter after `?` in {ORIGIN} has no `=`; write ?key=value&key=value"
            )));
        };
        let key = decode(key, "a parameter's name")?;
        let value = decode(value, &key)?;
        // JDBC's spelling, which libpq understands too.
        if key == "ssl" && value == "true" {
            pairs.push(("sslmode".to_owned(), "require".to_owned()));
        } else {
            pairs.push((key, value));
        }
    }
    Ok(pairs)
}

fn user_and_password(userinfo: &str, pairs: &mut Vec<(String, String)>) -> Result<(), ConfigError> {
    let (user, password) =
        userinfo.split_once(':').map_or((userinfo, None), |(user, p)| (user, Some(p)));
    if !user.is_empty() {
        pairs.push(("user".to_owned(), decode(user, "the user's name")?));
    }
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        pairs.push(("password".to_owned(), decode(password, "the password")?));
    }
    Ok(())
}

fn host_list(text: &str, pairs: &mut Vec<(String, String)>) -> Result<(), ConfigError> {
    if text.is_empty() {
        return Ok(());
    }
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for part in text.split(',') {
        let (host, port) = if let Some(bracketed) = part.strip_prefix('[') {
            let Some((address, after)) = bracketed.split_once(']') else {
                return Err(ConfigError::new(format!(
                    "an IPv6 address in {ORIGIN} has no closing `]`"
                )));
            };
            match after.strip_prefix(':') {
                Some(port) => (address, port),
                None if after.is_empty() => (address, ""),
                None => {
                    return Err(ConfigError::new(format!(
                        "after the `]` of an IPv6 address in {ORIGIN} only :port may follow"
                    )));
                }
            }
        } else {
            part.split_once(':').map_or((part, ""), |(host, port)| (host, port))
        };
        if !port.is_empty() && !port.parse::<u16>().is_ok_and(|port| port > 0) {
            // Not repeated: it is the password where an `@` or `/` in it was not encoded.
            return Err(ConfigError::new(format!(
                "the port in {ORIGIN} is not a number from 1 to 65535; {ENCODE}, \
                 and an IPv6 address must stand in brackets"
            )));
        }
        hosts.push(decode(host, "the host")?);
        ports.push(port);
    }
    pairs.push(("host".to_owned(), hosts.join(",")));
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port".to_owned(), ports.join(",")));
    }
    Ok(())
}

fn decode(text: &str, what: &str) -> Result<String, ConfigError> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        if !(after.len() >= 2 && after.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit)) {
            return Err(ConfigError::new(format!(
                "{what} in {ORIGIN} has a `%` that two hexadecimal digits do not follow; write %25 for %"
            )));
        }
        rest = &after[2..];
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) if decoded.contains('\0') => {
            Err(ConfigError::new(format!("{what} in {ORIGIN} contains a zero byte (%00)")))
        }
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(ConfigError::new(format!("{what} in {ORIGIN} is not UTF-8 once decoded"))),
    }
}
