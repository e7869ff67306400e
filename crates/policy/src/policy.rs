//! The policy file as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;

use flexkeep_vault::{Place, VaultError};
use toml::de::{DeTable, DeValue};

use crate::drill::{self, DrillPolicy};
use crate::env::{Env, Template, required};
use crate::problem::{PolicyError, Problem, Problems, Report, Spot};
use crate::section::{Field, Section, type_name};
use crate::server::{OWN_KEYS, Read, SHARED_KEYS, ServerPolicy, Shared};
use crate::target::{self, TargetPolicy};

/// The largest policy file, bytes.
pub const MAX_POLICY_BYTES: u64 = 1 << 20;

const VAULT_EXAMPLE: &str = r#"place = "/var/lib/flexkeep/vault""#;
const SERVER_EXAMPLE: &str = r#"[[server]] with name = "shop" below it"#;

/// What to back up, when, and where to.
#[derive(Clone, Debug)]
pub struct Policy {
    file: Arc<str>,
    vault: Place,
    servers: Vec<ServerPolicy>,
    targets: Vec<TargetPolicy>,
    drills: Vec<DrillPolicy>,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// What is wrong in the file fails all of it. What the environment lacks for one server is
    /// an error of that server, when its connection is asked for, and of [`Policy::strict`].
    ///
    /// # Errors
    /// The file cannot be read, or everything that is wrong with it.
    pub fn load(path: &Path, env: &dyn Env) -> Result<Policy, PolicyError> {
        Policy::parse(&read_file(path)?, &path.display().to_string(), env)
    }

    /// As [`Policy::load`], of a text; `file` is its name in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, file: &str, env: &dyn Env) -> Result<Policy, PolicyError> {
        let mut report = Report::new(text, file);
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            syntax(&error, text, &mut report);
        }
        // What was recovered is not looked at: its errors would be mere consequences.
        report.finish()?;
        let root = Section::root(root.get_ref(), 0..0);
        root.check_keys(&["vault", "defaults", "server", "target", "drill"], &[], &mut report);
        let vault = vault(&root, env, &mut report);
        let defaults = defaults(&root, &mut report);
        let read = servers(&root, &defaults, &mut report);
        let servers: Vec<_> =
            read.into_iter().map(|server| server.finish(&defaults, env, &report)).collect();
        let targets = target::read(&root, env, &mut report);
        let drills = drill::read(&root, &servers, &targets, &mut report);
        let file = Arc::from(file);
        report.finish()?;
        // Nothing was reported, so nothing is missing.
        let servers = servers.into_iter().flatten().collect();
        let vault = vault.expect("a vault that could not be read was reported");
        Ok(Policy { file, vault, servers, targets: targets.listed, drills })
    }

    /// Where the backups go.
    pub fn vault(&self) -> &Place {
        &self.vault
    }

    /// The servers, in the order of the file.
    pub fn servers(&self) -> &[ServerPolicy] {
        &self.servers
    }

    /// The server of that name.
    pub fn server(&self, name: &str) -> Option<&ServerPolicy> {
        self.servers.iter().find(|server| server.name().as_str() == name)
    }

    /// Where backups may be restored to, in the order of the file.
    pub fn targets(&self) -> &[TargetPolicy] {
        &self.targets
    }

    /// The target of that name.
    pub fn target(&self, name: &str) -> Option<&TargetPolicy> {
        self.targets.iter().find(|target| target.name().as_str() == name)
    }

    /// The restore drills, in the order of the file; at most one for each server.
    pub fn drills(&self) -> &[DrillPolicy] {
        &self.drills
    }

    /// The restore drill of a server.
    pub fn drill(&self, server: &str) -> Option<&DrillPolicy> {
        self.drills.iter().find(|drill| drill.server().as_str() == server)
    }

    /// What the environment lacks for the servers that are enabled, and for the targets.
    pub fn problems(&self) -> Vec<&Problem> {
        let enabled = self.servers.iter().filter(|server| server.enabled());
        let servers = enabled.filter_map(|server| server.connection().err());
        let targets = self.targets.iter().filter_map(|target| target.connection().err());
        servers.chain(targets).flatten().collect()
    }

    /// The policy, if no enabled server and no target has a problem.
    ///
    /// # Errors
    /// All of [`Policy::problems`].
    pub fn strict(self) -> Result<Policy, PolicyError> {
        let problems: Vec<Problem> = self.problems().into_iter().cloned().collect();
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(PolicyError::Wrong(Problems::of(&self.file, problems)))
        }
    }
}

/// The text of a file, of limited size.
fn read_file(path: &Path) -> Result<String, PolicyError> {
    let file = path.display().to_string();
    let unreadable = |source: std::io::Error| {
        let way_out = match source.kind() {
            ErrorKind::NotFound => "check the path, or write one (docs/policy.md has an example)",
            ErrorKind::PermissionDenied => {
                "let the user that flexkeep runs as read it and its folders"
            }
            _ => "check the path and the disk",
        };
        PolicyError::Unreadable { file: file.clone(), way_out, source }
    };
    let no_file = |reason: &str| PolicyError::NoFile { file: file.clone(), reason: reason.into() };
    // Before it is opened: to open a pipe waits for a writer.
    let kind = std::fs::metadata(path).map_err(unreadable)?;
    if kind.is_dir() {
        return Err(no_file("it is a folder; name the TOML file in it"));
    }
    if !kind.is_file() {
        return Err(no_file("it is no regular file; name a TOML file"));
    }
    let mut bytes = Vec::new();
    let opened = File::open(path).map_err(unreadable)?;
    opened.take(MAX_POLICY_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_POLICY_BYTES {
        return Err(no_file("it is larger than 1 MiB, which no policy is; name a TOML file"));
    }
    String::from_utf8(bytes).map_err(|error| not_utf8(error.as_bytes(), &file))
}

/// The place of the first byte that is not UTF-8.
fn not_utf8(bytes: &[u8], file: &str) -> PolicyError {
    let end = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let before = String::from_utf8_lossy(&bytes[..end]);
    let mut report = Report::new(&before, file);
    let key = key_of_line(report.line_of(end)).to_owned();
    let spot = Spot { server: None, key, span: end..end };
    report.add(&spot, "expected UTF-8, found another byte; save the file with that encoding");
    match report.finish() {
        Err(error) => error,
        Ok(()) => PolicyError::NoFile { file: file.to_owned(), reason: "it is not UTF-8".into() },
    }
}

/// Reports what is not TOML; the parser's messages never repeat the text.
fn syntax(error: &toml::de::Error, text: &str, report: &mut Report<'_>) {
    let span = error.span().unwrap_or(text.len()..text.len());
    let line = report.line_of(span.start);
    let spot = Spot { server: None, key: key_of_line(line).to_owned(), span };
    let message = error.message();
    let message = if message == "duplicate key" {
        "is there twice; expected it once, remove one of them".to_owned()
    } else if line.split_once('=').is_some_and(|(_, value)| value.trim().is_empty()) {
        "has no value; write one after the `=`, a text in quotes".to_owned()
    } else if line.contains('=') {
        format!("is not TOML: {message}; a text must stand in quotes, a number must not")
    } else {
        format!("is not TOML: {message}; a line is key = value, [table] or [[table of a list]]")
    };
    report.add(&spot, message);
}

/// The key that a line sets, or what stands for it in messages. Only known keys: what stands in a
/// line that is no TOML may be anything.
fn key_of_line(line: &str) -> &str {
    let known = [
        "vault", "place", "defaults", "server", "env", "every", "on", "at", "zone", "target",
        "drill",
    ];
    let key = line.split('=').next().unwrap_or_default().trim();
    let bare = key.trim_matches(['[', ']']);
    let mut keys = known.iter().chain(&OWN_KEYS).chain(&SHARED_KEYS);
    if keys.any(|known| *known == bare) { key } else { "this line" }
}

fn vault(root: &Section<'_>, env: &dyn Env, report: &mut Report<'_>) -> Option<Place> {
    let Some((value, spot)) = root.value("vault") else {
        report.add(
            &root.missing("vault"),
            format!(
                "missing; expected where backups go: write [vault] and below it {VAULT_EXAMPLE}"
            ),
        );
        return None;
    };
    let DeValue::Table(table) = value else {
        let found = type_name(value);
        report.add(
            &spot,
            format!("expected a table, found {found}; write [vault] and below it {VAULT_EXAMPLE}"),
        );
        return None;
    };
    let section = root.below(table, spot);
    section.check_keys(&["place"], &[], report);
    match section.text("place", VAULT_EXAMPLE, report) {
        Field::Bad => None,
        Field::Absent => {
            report.add(
                &section.missing("place"),
                format!("missing; expected where backups go: write {VAULT_EXAMPLE}"),
            );
            None
        }
        Field::Good((text, spot)) => place(text, &spot, env, report),
    }
}

fn place(text: &str, spot: &Spot, env: &dyn Env, report: &mut Report<'_>) -> Option<Place> {
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(message) => {
            report.add(spot, message);
            return None;
        }
    };
    let mut complete = true;
    for name in template.variables() {
        if let Err(bad) = required(env, name) {
            complete = false;
            report.add(spot, bad.message);
        }
    }
    if !complete {
        return None;
    }
    let filled = template.fill(env).ok()?;
    match filled.parse::<Place>() {
        Ok(place) => Some(place),
        Err(error) => {
            // Only the reason: the place itself may come from the environment.
            let reason = match &error {
                VaultError::BadPlace { reason, .. } => reason.as_str(),
                _ => "it is no place",
            };
            report.add(spot, format!("cannot be a vault: {reason}; write {VAULT_EXAMPLE}"));
            None
        }
    }
}

fn defaults(root: &Section<'_>, report: &mut Report<'_>) -> Shared {
    let Some((value, spot)) = root.value("defaults") else { return Shared::absent() };
    let DeValue::Table(table) = value else {
        let found = type_name(value);
        report.add(
            &spot,
            format!("expected a table, found {found}; write [defaults] and keys below it"),
        );
        return Shared::absent();
    };
    let section = root.below(table, spot);
    section.check_keys(&SHARED_KEYS, &OWN_KEYS, report);
    for key in OWN_KEYS {
        if let Some((_, spot)) = section.value(key) {
            report.add(
                &spot,
                "is each server's own, two servers cannot share it; write it in every [[server]]",
            );
        }
    }
    Shared::read(&section, report)
}

fn servers(root: &Section<'_>, defaults: &Shared, report: &mut Report<'_>) -> Vec<Read> {
    let list = match root.value("server") {
        Some((DeValue::Array(list), _)) if !list.is_empty() => list,
        Some((DeValue::Table(_), spot)) => {
            report.add(
                &spot,
                format!("expected a list, found one table; write {SERVER_EXAMPLE} (two brackets)"),
            );
            return Vec::new();
        }
        Some((DeValue::Array(_), spot)) => {
            report.add(&spot, format!("expected at least one server; write {SERVER_EXAMPLE}"));
            return Vec::new();
        }
        Some((other, spot)) => {
            let found = type_name(other);
            report.add(&spot, format!("expected a list, found {found}; write {SERVER_EXAMPLE}"));
            return Vec::new();
        }
        None => {
            report.add(
                &root.missing("server"),
                format!("missing; expected at least one server: write {SERVER_EXAMPLE}"),
            );
            return Vec::new();
        }
    };
    let mut read = Vec::new();
    let mut lines_by_name = BTreeMap::new();
    for (index, item) in list.iter().enumerate() {
        let DeValue::Table(table) = item.get_ref() else {
            let found = type_name(item.get_ref());
            let key = format!("server[{}]", index + 1);
            report.add(
                &Spot { server: None, key, span: item.span() },
                format!("expected a table, found {found}; write {SERVER_EXAMPLE}"),
            );
            continue;
        };
        let name = table.get("name").and_then(|name| name.get_ref().as_str());
        let section = Section::server(table, item.span(), name, index + 1);
        unique(&section, &mut lines_by_name, report);
        read.push(Read::of(&section, defaults, report));
    }
    read
}

/// Reports a name that an earlier server has, in any case of letters.
fn unique(
    section: &Section<'_>,
    lines_by_name: &mut BTreeMap<String, usize>,
    report: &mut Report<'_>,
) {
    let Some((DeValue::String(name), spot)) = section.value("name") else { return };
    let line = report.problem(&spot, "").line();
    if let Some(first) = lines_by_name.get(&name.to_lowercase()) {
        report.add(
            &spot,
            format!(
                "the server on line {first} has this name too (upper and lower case are the same); \
                 write another name, as the vault keeps backups by it"
            ),
        );
    } else {
        lines_by_name.insert(name.to_lowercase(), line);
    }
}
