//! The connection service file: named groups of keys, as in libpq.

use std::fs;
use std::path::{Path, PathBuf};

use super::{ConfigError, Environment};

/// Service files are small; more than this is another file.
const LONGEST: u64 = 1024 * 1024;

/// Where the libpq of Debian and Ubuntu looks for the service file of the system.
const SYSTEM_FOLDER: &str = "/etc/postgresql-common";

/// The keys of a service.
///
/// # Errors
/// No file, a file that can't be read, or no such service in any file.
pub(super) fn read(
    name: &str,
    file: Option<&Path>,
    environment: &Environment,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut places: Vec<PathBuf> = Vec::new();
    match file {
        Some(file) => places.push(file.to_owned()),
        None => {
            places.extend(environment.in_home(".pg_service.conf").filter(|file| file.exists()));
        }
    }
    let folder = environment.get("PGSYSCONFDIR").map_or(Path::new(SYSTEM_FOLDER), Path::new);
    places.extend(Some(folder.join("pg_service.conf")).filter(|file| file.exists()));
    for place in &places {
        let text = read_small(place)?;
        if let Some(pairs) = section(&text, name, place)? {
            return Ok(pairs);
        }
    }
    let list: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    Err(ConfigError::new(if list.is_empty() {
        format!(
            "service \"{name}\" is asked for, but there is no service file; \
             name one in PGSERVICEFILE or write ~/.pg_service.conf"
        )
    } else {
        format!("service \"{name}\" is not in {}", list.join(" or "))
    }))
}

fn read_small(place: &Path) -> Result<String, ConfigError> {
    let failed = |error: std::io::Error| {
        ConfigError::new(format!("cannot read the service file {}: {error}", place.display()))
    };
    let length = fs::metadata(place).map_err(failed)?.len();
    if length > LONGEST {
        return Err(ConfigError::new(format!(
            "the service file {} is longer than {LONGEST} bytes",
            place.display()
        )));
    }
    fs::read_to_string(place).map_err(failed)
}

fn section(
    text: &str,
    name: &str,
    place: &Path,
) -> Result<Option<Vec<(String, String)>>, ConfigError> {
    let mut inside = false;
    let mut found = false;
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if found {
                break;
            }
            inside = title == name;
            found |= inside;
            continue;
        }
        if inside {
            let Some((key, value)) = line.split_once('=') else {
                return Err(ConfigError::new(format!(
                    "line {} of {} is not key=value",
                    number + 1,
                    place.display()
                )));
            };
            if key.trim() == "service" {
                return Err(ConfigError::new(format!(
                    "line {} of {}: a service can't refer to another service",
                    number + 1,
                    place.display()
                )));
            }
            pairs.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    Ok(found.then_some(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\n[one]\nhost=a\n\n[two]\nhost = b\nport=6000\n[three]\nbroken\n";

    #[test]
    fn the_named_section_is_read_and_no_other() {
        let place = Path::new("f");
        let two = section(TEXT, "two", place).unwrap().unwrap();
        assert_eq!(two, [("host".into(), "b".into()), ("port".into(), "6000".into())]);
        assert_eq!(section(TEXT, "four", place).unwrap(), None);
        let error = section(TEXT, "three", place).unwrap_err().to_string();
        assert_eq!(error, "line 9 of f is not key=value");
    }
}
