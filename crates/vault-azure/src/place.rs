//! A container's URL as users write it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use azure_core::http::Url;
use flexkeep_vault::store::is_valid_name;

use crate::sas::Sas;
use crate::tags::Tags;

/// Access tier of the blobs of chunks. All tiers that can be read at once are possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkTier {
    /// For what is read often.
    Hot,
    /// At least 30 days.
    Cool,
    /// At least 90 days.
    Cold,
}

/// Where a vault lies in Azure Blob Storage: the containers, and what the URL says besides.
///
/// Neither `Display` nor `Debug` shows the URL's query, in which a signature may be.
#[derive(Clone, PartialEq, Eq)]
pub struct BlobPlace {
    /// Scheme, host, and for the emulator the account; no slash at the end.
    service: String,
    account: String,
    container: String,
    runs: String,
    loopback: bool,
    https: bool,
    pub(crate) tier: Option<ChunkTier>,
    pub(crate) tags: Tags,
    pub(crate) sas: Option<Sas>,
}

/// Why a URL names no place for a vault. Shows nothing of the URL's query but names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlace {
    /// Not a URL, or not one of a container.
    #[error(
        "`{url}` is no container's URL: {problem}; expected is \
         https://ACCOUNT.blob.core.windows.net/CONTAINER"
    )]
    Url {
        /// The URL without its query.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Not encrypted, and not on this machine.
    #[error("`{url}` is not encrypted: http is for an emulator on this machine only, use https")]
    Http {
        /// The URL without its query.
        url: String,
    },
    /// A container name that Azure does not take.
    #[error(
        "`{name}` can't be a container's name{hint}: Azure takes 3 to 63 lower-case letters, digits \
         and single hyphens, a letter or digit first and last"
    )]
    Container {
        /// The name.
        name: String,
        /// Where it comes from, if that is not plain.
        hint: &'static str,
    },
    /// An access tier that is none, or can't be used.
    #[error("the tier `{tier}` can't be used: {problem}")]
    Tier {
        /// As given.
        tier: String,
        /// Why not.
        problem: &'static str,
    },
    /// Index tags that Azure would refuse.
    #[error("the tags can't be used: {problem}; expected is tags=KEY:VALUE,KEY:VALUE")]
    Tags {
        /// Why not.
        problem: String,
    },
    /// A parameter that is neither ours nor part of a signature.
    #[error(
        "unknown parameter `{name}` in the container's URL: there are `runs`, `tier` and `tags`, \
         and those of a shared access signature, which has `sig`"
    )]
    Parameter {
        /// Its name.
        name: String,
    },
    /// A parameter given twice.
    #[error("the parameter `{name}` is in the container's URL twice")]
    Twice {
        /// Its name.
        name: String,
    },
}

impl BlobPlace {
    /// Reads `https://ACCOUNT.blob.core.windows.net/CONTAINER[?PARAMETERS]`, the hosts of other
    /// clouds, or an emulator's `http://127.0.0.1:10000/devstoreaccount1/CONTAINER`.
    ///
    /// Parameters of our own are `runs`, `tier` and `tags`; the others are a shared access
    /// signature.
    pub fn parse(text: &str) -> Result<Self, BadPlace> {
        let (place, _) = Self::parse_with_folder(text, false)?;
        Ok(place)
    }

    /// Reads the URL of a container, or of a folder in it, that an export is written into:
    /// `https://ACCOUNT.blob.core.windows.net/CONTAINER[/FOLDER][?PARAMETERS]`. The folder comes back
    /// apart, without a slash at either end. Of the parameters of our own only `tier` has a meaning.
    pub fn parse_target(text: &str) -> Result<(Self, String), BadPlace> {
        Self::parse_with_folder(text, true)
    }

    fn parse_with_folder(text: &str, is_target: bool) -> Result<(Self, String), BadPlace> {
        let text = text.trim();
        let (shown, query) = text.split_once(['?', '#']).unwrap_or((text, ""));
        let shown = without_login(shown);
        let bad = |problem: &str| BadPlace::Url { url: shown.clone(), problem: problem.into() };
        let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(bad("it does not begin with https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("a name or password in it is not used; give a signature instead"));
        }
        if url.fragment().is_some() {
            return Err(bad("`#` has no meaning here"));
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        if url.scheme() == "http" && !loopback {
            return Err(BadPlace::Http { url: shown });
        }
        let path = url.path().strip_prefix('/').unwrap_or(url.path());
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments: Vec<&str> = path.split('/').collect();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let mut service = format!("{}://{host}{port}", url.scheme());
        let (account, container, folders) = if loopback || address.is_some() {
            let [account, container, folders @ ..] = &segments[..] else {
                return Err(bad("after an address come the account and the container"));
            };
            if !is_target && !folders.is_empty() {
                return Err(bad("after an address come the account and the container"));
            }
            service = format!("{service}/{account}");
            (*account, *container, folders)
        } else {
            let Some((account, _)) = host.split_once(".blob.") else {
                return Err(bad("the host is not that of a Blob service"));
            };
            let [container, folders @ ..] = &segments[..] else {
                return Err(bad("it names no container"));
            };
            if !is_target && !folders.is_empty() {
                return Err(bad("a vault is a whole container, without a folder in it"));
            }
            (account.split('.').next().unwrap_or_default(), *container, folders)
        };
        if container.is_empty() {
            return Err(bad("it names no container"));
        }
        if !is_account(account) {
            return Err(bad("an account's name has 3 to 24 lower-case letters and digits"));
        }
        check_container(container, "")?;
        let folder = folder_of(folders).ok_or_else(|| {
            bad("a folder in it has letters, digits, `.`, `_`, `-` and `/`, 400 at most, and none \
                 begins with a dot")
        })?;
        let mut place = Self {
            account: account.to_owned(),
            container: container.to_owned(),
            runs: String::new(),
            loopback,
            https: url.scheme() == "https",
            tier: None,
            tags: Tags::default(),
            sas: None,
            service,
        };
        if is_target {
            // Nothing changes there.
            place.runs.clone_from(&place.container);
        }
        place.read_query(query)?;
        if is_target && (place.runs != place.container || place.tags.header().is_some()) {
            return Err(bad("`runs` and `tags` are for vaults, not for exports"));
        }
        Ok((place, folder))
    }

    fn read_query(&mut self, query: &str) -> Result<(), BadPlace> {
        let mut rest: Vec<&str> = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = form_urlencoded::parse(pair.as_bytes())
                .next()
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .unwrap_or_default();
            if seen.contains(&name) {
                return Err(BadPlace::Twice { name });
            }
            match name.as_str() {
                "runs" => {
                    check_container(&value, "")?;
                    self.runs = value;
                }
                "tier" => self.tier = Some(ChunkTier::parse(&value)?),
                "tags" => self.tags = Tags::parse(&value)?,
                // As it is: a signature must not be decoded and encoded again.
                _ => rest.push(pair),
            }
            seen.push(name);
        }
        if self.runs.is_empty() {
            self.runs = format!("{}-runs", self.container);
            check_container(&self.runs, " (for what changes; choose one with `runs=`)")?;
        }
        if let Some(first) = rest.first() {
            let name = first.split('=').next().unwrap_or_default().to_owned();
            let sas = Sas::parse(&rest.join("&"));
            self.sas = Some(sas.map_err(|_| BadPlace::Parameter { name })?);
        }
        Ok(())
    }

    /// The container of what is written once.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// The container of what changes; it may be the same.
    pub fn runs_container(&self) -> &str {
        &self.runs
    }

    /// The storage account's name.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Whether the URL brings a shared access signature.
    pub fn has_sas(&self) -> bool {
        self.sas.is_some()
    }

    /// The container's URL without a query.
    pub(crate) fn location(&self, container: &str) -> String {
        format!("{}/{container}", self.service)
    }

    pub(crate) fn is_https(&self) -> bool {
        self.https
    }

    /// Whether the host is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.loopback
    }
}

impl FromStr for BlobPlace {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        Self::parse(text)
    }
}

impl fmt::Display for BlobPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.location(&self.container))
    }
}

impl fmt::Debug for BlobPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobPlace")
            .field("url", &self.location(&self.container))
            .field("runs", &self.runs)
            .field("tier", &self.tier)
            .field("sas", &self.sas)
            .finish_non_exhaustive()
    }
}

impl ChunkTier {
    fn parse(text: &str) -> Result<Self, BadPlace> {
        let problem = match text.to_ascii_lowercase().as_str() {
            "hot" => return Ok(Self::Hot),
            "cool" => return Ok(Self::Cool),
            "cold" => return Ok(Self::Cold),
            "archive" => {
                "what is archived can't be read before it was brought back, which takes hours, so \
                 that a restore would fail; use Hot, Cool or Cold"
            }
            _ => "there are Hot, Cool and Cold",
        };
        Err(BadPlace::Tier { tier: text.to_owned(), problem })
    }
}

/// A folder's segments as one path; none if a name is odd.
fn folder_of(segments: &[&str]) -> Option<String> {
    let folder = segments.join("/");
    let good = folder.is_empty() || (folder.len() <= 400 && is_valid_name(&folder));
    good.then_some(folder)
}

/// The URL without a password, if one was given by mistake.
fn without_login(shown: &str) -> String {
    match (shown.split_once("://"), shown.rfind('@')) {
        (Some((scheme, _)), Some(at)) => format!("{scheme}://{}", &shown[at + 1..]),
        _ => shown.to_owned(),
    }
}

fn is_account(name: &str) -> bool {
    (3..=24).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn check_container(name: &str, hint: &'static str) -> Result<(), BadPlace> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = (3..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if good { Ok(()) } else { Err(BadPlace::Container { name: name.to_owned(), hint }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> BlobPlace {
        BlobPlace::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> String {
        BlobPlace::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_container_of_an_account() {
        for text in [
            "https://acct.blob.core.windows.net/vault",
            "https://acct.blob.core.windows.net/vault/",
            "https://ACCT.blob.core.windows.net:443/vault",
        ] {
            let place = place(text);
            assert_eq!(place.to_string(), "https://acct.blob.core.windows.net/vault");
            assert_eq!((place.account(), place.container()), ("acct", "vault"));
            assert_eq!(place.runs_container(), "vault-runs");
            assert!(!place.has_sas() && place.is_https() && !place.is_loopback());
        }
    }

    #[test]
    fn other_clouds_and_zones_are_hosts_too() {
        for host in ["acct.blob.core.chinacloudapi.cn", "acct.z01.blob.storage.azure.net"] {
            assert_eq!(place(&format!("https://{host}/vault")).account(), "acct");
        }
    }

    #[test]
    fn an_emulator_has_the_account_in_the_path() {
        for text in ["http://127.0.0.1:10000/devstoreaccount1/vault/", "http://[::1]:1/acct/vault"]
        {
            let place = place(text);
            assert!(place.is_loopback() && !place.is_https());
            assert_eq!(place.to_string(), text.trim_end_matches('/'));
        }
        assert_eq!(place("https://localhost/acct/vault").account(), "acct");
    }

    #[test]
    fn our_parameters_are_taken_out_of_the_signature() {
        let place = place(
            "https://acct.blob.core.windows.net/vault?sv=2022-11-02&runs=other&tier=cold\
             &sig=a%2Bb%3D&tags=team:dba,cost:x%20y&se=2030-01-01T00%3A00%3A00Z",
        );
        assert_eq!(place.runs_container(), "other");
        assert_eq!(place.tier, Some(ChunkTier::Cold));
        assert_eq!(place.tags.header().unwrap(), "team=dba&cost=x+y");
        let query = "sv=2022-11-02&sig=a%2Bb%3D&se=2030-01-01T00%3A00%3A00Z";
        assert_eq!(place.sas.as_ref().unwrap().query(), query);
        let shown = format!("{place} {place:?}");
        assert!(!shown.contains("a%2Bb") && !shown.contains("2022-11-02"), "{shown}");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_query() {
        let host = "https://acct.blob.core.windows.net";
        for (text, reason) in [
            ("vault?sig=hidden".to_owned(), "relative URL"),
            ("ftp://acct.blob.core.windows.net/vault?sig=hidden".to_owned(), "https://"),
            ("http://acct.blob.core.windows.net/vault?sig=hidden".to_owned(), "not encrypted"),
            ("http://10.0.0.1:10000/acct/vault?sig=hidden".to_owned(), "not encrypted"),
            ("https://example.com/vault?sig=hidden".to_owned(), "not that of a Blob service"),
            ("https://u:hidden@acct.blob.core.windows.net/vault".to_owned(), "not used"),
            ("https://ab.blob.core.windows.net/vault?sig=hidden".to_owned(), "3 to 24"),
            ("http://127.0.0.1:10000/vault?sig=hidden".to_owned(), "account and the container"),
            (format!("{host}?sig=hidden"), "names no container"),
            (format!("{host}/vault/folder?sig=hidden"), "whole container"),
            (format!("{host}/vault?sig=hidden#x"), "`#`"),
            (format!("{host}/Vault?sig=hidden"), "lower-case"),
            (format!("{host}/va--ult?sig=hidden"), "single hyphens"),
            (format!("{host}/$root?sig=hidden"), "$root"),
            (format!("{host}/{}?sig=hidden", "v".repeat(60)), "`runs=`"),
            (format!("{host}/vault?runs=x&sig=hidden"), "`x`"),
            (format!("{host}/vault?tier=archive&sig=hidden"), "restore would fail"),
            (format!("{host}/vault?tier=warm&sig=hidden"), "Hot, Cool and Cold"),
            (format!("{host}/vault?tags=x&sig=hidden"), "KEY:VALUE"),
            (format!("{host}/vault?teir=hidden"), "`teir`"),
            (format!("{host}/vault?tier=hot&tier=cool&sig=hidden"), "twice"),
        ] {
            let error = refused(&text);
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("hidden"), "{text}: {error}");
        }
    }

    #[test]
    fn an_export_may_go_into_a_folder_of_a_container() {
        let host = "https://acct.blob.core.windows.net";
        for (text, folder) in [
            (format!("{host}/out"), ""),
            (format!("{host}/out/"), ""),
            (format!("{host}/out/2026/shop/?sig=x&tier=cool"), "2026/shop"),
            ("http://127.0.0.1:10000/acct/out/a".to_owned(), "a"),
        ] {
            let (place, found) = BlobPlace::parse_target(&text).unwrap();
            assert_eq!((place.container(), found.as_str()), ("out", folder), "{text}");
        }
        for wrong in ["/out/a%20b", "/out/.a", "/out//a", "/out?runs=x12", "/out?tags=a:b", "/"] {
            let text = format!("{host}{wrong}");
            assert!(BlobPlace::parse_target(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn both_stores_may_share_a_container() {
        let place = place("https://acct.blob.core.windows.net/vault?runs=vault");
        assert_eq!(place.runs_container(), place.container());
    }
}
