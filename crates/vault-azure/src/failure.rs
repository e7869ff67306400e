//! What is told of a request that failed: never a URL, a query or a header of ours, as a shared
//! access signature or a token could be in them.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use azure_core::error::ErrorKind;
use azure_core::http::RawResponse;
use azure_core::http::headers::{HeaderName, RETRY_AFTER};
use flexkeep_vault::store::StoreErrorKind;

/// The longest text of a service or library that is repeated, characters.
const MAX_TEXT: usize = 400;

/// Why a request to the storage service failed, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobError {
    status: Option<u16>,
    code: Option<String>,
    text: String,
    advice: Option<String>,
}

impl BlobError {
    /// The HTTP status, if the service answered.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The service's error code, such as `AuthorizationPermissionMismatch`.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// What is wrong in words of ours.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { status: None, code: None, text: text.into(), advice: None }
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(status) = self.status {
            write!(f, "the storage service answered {status}")?;
            if let Some(code) = &self.code {
                write!(f, " {code}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.text)?;
        self.advice.as_ref().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

impl std::error::Error for BlobError {}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// The service answered so.
    Status(u16),
    /// No answer: it may have taken effect or not.
    Transport,
    /// No token; `passing` when the reason may pass.
    Credential { passing: bool },
    /// An answer that makes no sense, or one of our own checks.
    Answer,
}

/// A request that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    class: Class,
    retry_after: Option<Duration>,
    error: BlobError,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Failure {
    /// Takes from the library's error what may be told.
    pub(crate) fn of(error: &azure_core::Error) -> Self {
        match error.kind() {
            ErrorKind::HttpResponse { status, error_code, raw_response } => {
                Self::answered(u16::from(*status), error_code.as_deref(), raw_response.as_deref())
            }
            ErrorKind::Connection | ErrorKind::Io => {
                Self::plain(Class::Transport, format!("no connection: {}", causes(error)))
            }
            ErrorKind::Credential => {
                let class = Class::Credential { passing: is_passing(error) };
                Self::plain(class, format!("no token for the storage service: {}", causes(error)))
            }
            _ => Self::plain(Class::Answer, format!("unexpected answer: {}", causes(error))),
        }
    }

    fn answered(status: u16, code: Option<&str>, response: Option<&RawResponse>) -> Self {
        let header = |name| response.and_then(|r| r.headers().get_optional_string(&name));
        let code = header(HeaderName::from_static("x-ms-error-code"))
            .or_else(|| code.map(str::to_owned))
            .filter(|code| code.bytes().all(|b| b.is_ascii_alphanumeric()));
        let body = response.map(|r| String::from_utf8_lossy(r.body()).into_owned());
        let mut text = body
            .as_deref()
            .and_then(|body| element(body, "Message"))
            .unwrap_or_else(|| "it gave no reason".to_owned());
        if let Some(detail) = body.as_deref().and_then(|b| element(b, "AuthenticationErrorDetail"))
        {
            text += " ";
            text += &detail;
        }
        if let Some(id) = header(HeaderName::from_static("x-ms-request-id")) {
            text += &format!(" (request {})", redact(&id));
        }
        let retry_after = header(RETRY_AFTER)
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(|seconds: u32| Duration::from_secs(seconds.into()));
        let error = BlobError { status: Some(status), code, text, advice: None };
        Self { class: Class::Status(status), retry_after, error }
    }

    fn plain(class: Class, text: String) -> Self {
        Self { class, retry_after: None, error: BlobError::new(text) }
    }

    /// A try that took too long.
    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::plain(Class::Transport, format!("no answer within {:.1} s", limit.as_secs_f64()))
    }

    /// A body that ended too early.
    pub(crate) fn broken(text: impl Into<String>) -> Self {
        Self::plain(Class::Transport, text.into())
    }

    /// An answer that makes no sense.
    pub(crate) fn nonsense(text: impl Into<String>) -> Self {
        Self::plain(Class::Answer, text.into())
    }

    /// A task that did not come to its end.
    pub(crate) fn ended() -> Self {
        Self::plain(Class::Answer, "the request was given up, as a thread of ours ended".into())
    }

    /// Adds how often it was tried.
    pub(crate) fn after(mut self, tries: u32) -> Self {
        self.error.text += &format!(" (tried {tries} times)");
        self
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.error.status
    }

    pub(crate) fn code(&self) -> &str {
        self.error.code.as_deref().unwrap_or_default()
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether another try may do better.
    pub(crate) fn may_pass(&self) -> bool {
        match self.class {
            Class::Transport => true,
            Class::Status(408 | 429 | 500 | 502 | 503 | 504) => true,
            // Damaged on the way.
            Class::Status(400) => matches!(self.code(), "Md5Mismatch" | "Crc64Mismatch"),
            // Credentials try once, as this is the one layer of retries.
            Class::Credential { passing } => passing,
            Class::Status(_) | Class::Answer => false,
        }
    }

    /// An answer that makes no sense.
    pub(crate) fn is_nonsense(&self) -> bool {
        self.class == Class::Answer
    }

    /// A condition of ours was not met.
    pub(crate) fn is_conflict(&self) -> bool {
        match self.class {
            Class::Status(409) => {
                self.code() == "BlobAlreadyExists" || self.code().starts_with("BlobImmutable")
            }
            Class::Status(412) => !self.code().contains("Lease"),
            _ => false,
        }
    }

    /// Blocks that we had sent are gone: somebody else's put of the name dropped them.
    pub(crate) fn lost_blocks(&self) -> bool {
        self.status() == Some(400) && self.code() == "InvalidBlockList"
    }

    pub(crate) fn no_such_blob(&self) -> bool {
        self.status() == Some(404) && self.kind() == StoreErrorKind::NotFound
    }

    /// What callers tell apart. A conflict is [`StoreErrorKind::Changed`] here.
    pub(crate) fn kind(&self) -> StoreErrorKind {
        let code = self.code();
        match self.class {
            _ if self.may_pass() => StoreErrorKind::Unavailable,
            Class::Credential { .. } => StoreErrorKind::PermissionDenied,
            Class::Status(507) => StoreErrorKind::NoSpace,
            Class::Status(_) if code.contains("Quota") => StoreErrorKind::NoSpace,
            Class::Status(401 | 403) => StoreErrorKind::PermissionDenied,
            Class::Status(404) if code.starts_with("Container") => StoreErrorKind::NoSuchPlace,
            Class::Status(404) => StoreErrorKind::NotFound,
            Class::Status(409) if code == "ContainerBeingDeleted" => StoreErrorKind::NoSuchPlace,
            Class::Status(409) if code.starts_with("BlobImmutable") => {
                StoreErrorKind::PermissionDenied
            }
            Class::Status(412) if code.contains("Lease") => StoreErrorKind::PermissionDenied,
            Class::Status(409 | 412) if self.is_conflict() => StoreErrorKind::Changed,
            _ => StoreErrorKind::Other,
        }
    }

    /// The part for users.
    pub(crate) fn into_error(self) -> BlobError {
        self.error
    }
}

/// Whether what kept us from a token may pass: no answer, or one that says so.
fn is_passing(error: &azure_core::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut passing = false;
    while let Some(error) = next {
        match error.downcast_ref::<azure_core::Error>().map(azure_core::Error::kind) {
            Some(ErrorKind::HttpResponse { status, .. }) => {
                // 404 and 410 are what the metadata service of a machine says while it starts.
                let status = u16::from(*status);
                return status >= 500 || [404, 408, 410, 429].contains(&status);
            }
            Some(ErrorKind::Io | ErrorKind::Connection) => passing = true,
            _ => {}
        }
        next = error.source();
    }
    passing
}

/// The text of an element of a small XML document.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    // The lines that follow have the request's id and the time.
    Some(redact(text.lines().next()?))
}

/// An error and its causes in one line. Those of reqwest are left out: they show the URL.
fn causes(error: &azure_core::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(cause) = next {
        if cause.downcast_ref::<reqwest::Error>().is_none() {
            let text = redact(&cause.to_string());
            if !texts.iter().any(|before| before.contains(&text)) {
                texts.push(text);
            }
        }
        next = cause.source();
    }
    if texts.is_empty() {
        // Without a cause the text is the library's own.
        texts.push(redact(&error.to_string()));
    }
    let all = texts.join(": ");
    all.chars().take(MAX_TEXT).collect()
}

/// Cuts queries off URLs, and all that looks like a signature or a token.
fn redact(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| c.is_whitespace() || "\"'()<>,;".contains(c)) {
        let secret = ["sig=", "token", "secret", "eyJ"].iter().any(|mark| {
            word.contains(mark) && (word.contains('=') || word.contains(':') || word.len() > 60)
        });
        match word.split_once('?') {
            Some((start, query)) if query.contains('=') => {
                out.push_str(start);
                out.push_str("?... ");
            }
            _ if secret => out.push_str("... "),
            _ => out.push_str(word),
        }
    }
    out.trim().chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use azure_core::Error;

    use super::*;

    #[test]
    fn secrets_are_cut_out_of_texts() {
        let text = "error for url (https://a.blob.core.windows.net/c?sv=1&sig=topsecret) and \
                    sig=topsecret, access_token=topsecret or \"eyJ0topsecret.aaaaaaaaaaaaaaaaaaaaaa\
                    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" end";
        let redacted = redact(text);
        assert!(!redacted.contains("topsecret"), "{redacted}");
        assert!(redacted.contains("https://a.blob.core.windows.net/c?..."), "{redacted}");
        assert!(redacted.ends_with("end"), "{redacted}");
    }

    #[test]
    fn ordinary_texts_stay() {
        for text in ["The token is expired.", "Connection refused (os error 111)", "what?"] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn the_reason_is_the_first_line_of_the_message() {
        let body = "<?xml?><Error><Code>X</Code><Message>No way.\nRequestId:1</Message></Error>";
        assert_eq!(element(body, "Message").unwrap(), "No way.");
        assert_eq!(element("<Message>", "Message"), None);
    }

    #[test]
    fn answers_have_their_kinds() {
        let kind = |status, code| Failure::answered(status, Some(code), None).kind();
        for (status, code, expected) in [
            (404, "BlobNotFound", StoreErrorKind::NotFound),
            (404, "ContainerNotFound", StoreErrorKind::NoSuchPlace),
            (409, "ContainerBeingDeleted", StoreErrorKind::NoSuchPlace),
            (403, "AuthorizationPermissionMismatch", StoreErrorKind::PermissionDenied),
            (401, "NoAuthenticationInformation", StoreErrorKind::PermissionDenied),
            (409, "BlobImmutableDueToPolicy", StoreErrorKind::PermissionDenied),
            (412, "LeaseIdMissing", StoreErrorKind::PermissionDenied),
            (412, "ConditionNotMet", StoreErrorKind::Changed),
            (409, "BlobAlreadyExists", StoreErrorKind::Changed),
            (409, "BlobArchived", StoreErrorKind::Other),
            (429, "TooManyRequests", StoreErrorKind::Unavailable),
            (503, "ServerBusy", StoreErrorKind::Unavailable),
            (500, "OperationTimedOut", StoreErrorKind::Unavailable),
            (400, "Crc64Mismatch", StoreErrorKind::Unavailable),
            (507, "InsufficientStorage", StoreErrorKind::NoSpace),
            (400, "InvalidHeaderValue", StoreErrorKind::Other),
        ] {
            assert_eq!(kind(status, code), expected, "{status} {code}");
        }
    }

    #[test]
    fn a_missing_token_is_no_permission_unless_its_reason_passes() {
        let refused = Error::with_message(ErrorKind::Credential, "az login first");
        let failure = Failure::of(&refused);
        assert_eq!((failure.kind(), failure.may_pass()), (StoreErrorKind::PermissionDenied, false));
        let io = Error::with_message(ErrorKind::Io, "refused");
        let unreachable = Error::with_error(ErrorKind::Credential, io, "no token");
        let failure = Failure::of(&unreachable);
        assert_eq!((failure.kind(), failure.may_pass()), (StoreErrorKind::Unavailable, true));
    }
}
