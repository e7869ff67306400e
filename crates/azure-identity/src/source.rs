//! Tokens for code that is not asynchronous: cached, and every wait bounded.

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use azure_core::credentials::AccessToken;
use azure_core::error::ErrorKind;
use tokio::runtime::{Builder, Runtime};

use crate::choice::{Credential, SECRET_VARIABLES, credential};
use crate::error::{IdentityError, TokenError};
use crate::redact::redacted;

/// How long before its end a token is replaced.
const MARGIN: Duration = Duration::from_secs(300);

/// A token that lives for less than this is not given out again, even if there is no newer one.
const LEAST_LIFE: Duration = Duration::from_secs(30);

/// Statuses that pass, besides those from 500 on: time-outs and throttling, and what the metadata
/// service of a machine says while it starts.
const PASSING: [u16; 4] = [404, 408, 410, 429];

/// The bounds of a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How often it is tried.
    pub attempts: u32,
    /// How long one attempt may take.
    pub attempt: Duration,
    /// The pause after the first attempt; each later one is twice as long.
    pub first_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts: 4,
            attempt: Duration::from_secs(15),
            first_pause: Duration::from_millis(500),
        }
    }
}

impl Limits {
    fn pause(&self, attempt: u32) -> Duration {
        self.first_pause.saturating_mul(1 << attempt.saturating_sub(1).min(6))
    }

    /// The longest that all attempts can take.
    fn all(&self) -> Duration {
        let pauses: Duration = (1..self.attempts).map(|attempt| self.pause(attempt)).sum();
        self.attempt.saturating_mul(self.attempts) + pauses
    }
}

/// An access token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: String,
    expires: SystemTime,
}

impl Token {
    /// The token itself.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// When it ends.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    fn lives_for(&self, time: Duration) -> bool {
        self.expires.duration_since(SystemTime::now()).is_ok_and(|left| left > time)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Gives tokens to any thread, also to one that works for an asynchronous runtime.
///
/// A token is kept until five minutes before its end. The requests run on a thread of its own;
/// threads that want the same token at the same time wait for one request, and share its failure.
pub struct TokenSource {
    identity: Credential,
    limits: Limits,
    secrets: Vec<String>,
    /// Taken only when dropped.
    runtime: Option<Runtime>,
    scopes: Mutex<HashMap<String, Arc<Mutex<Kept>>>>,
}

/// What is known of one scope's tokens.
#[derive(Default)]
struct Kept {
    token: Option<Token>,
    failed: Option<(Instant, TokenError)>,
}

impl TokenSource {
    /// A source of an identity's tokens.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn new(identity: Credential, limits: Limits) -> Result<Self, IdentityError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("flexkeep-tokens")
            .enable_all()
            .build()
            .map_err(|error| IdentityError::Thread(error.to_string()))?;
        let secrets = SECRET_VARIABLES.iter().filter_map(|name| std::env::var(name).ok());
        Ok(Self {
            identity,
            limits,
            secrets: secrets.collect(),
            runtime: Some(runtime),
            scopes: Mutex::default(),
        })
    }

    /// That of this process's environment, the same one at each call.
    ///
    /// # Errors
    /// What [`credential`] says.
    pub fn of_process() -> Result<Arc<Self>, IdentityError> {
        static SOURCE: OnceLock<Arc<TokenSource>> = OnceLock::new();
        if let Some(source) = SOURCE.get() {
            return Ok(Arc::clone(source));
        }
        let found = credential(&|name| std::env::var(name).ok())?;
        let source = Arc::new(Self::new(found, Limits::default())?);
        Ok(Arc::clone(SOURCE.get_or_init(|| source)))
    }

    /// A token that is good for a while, for one scope such as
    /// `https://storage.azure.com/.default`.
    ///
    /// Blocks, but not for longer than the limits allow (twice that, if another thread's request
    /// is under way).
    ///
    /// # Errors
    /// None could be had, and none that is kept lives for another half a minute.
    pub fn token(&self, scope: &str) -> Result<Token, TokenError> {
        let began = Instant::now();
        let kept = Arc::clone(locked(&self.scopes).entry(scope.to_owned()).or_default());
        let mut kept = locked(&kept);
        if let Some(token) = kept.token.as_ref().filter(|token| token.lives_for(MARGIN)) {
            return Ok(token.clone());
        }
        // The token that another thread had just asked for may be one of a short life.
        let result = match kept.failed.take() {
            Some((at, error)) if at >= began => Err((at, error)),
            _ => self.request(scope).map_err(|error| (Instant::now(), error)),
        };
        match result {
            Ok(token) => {
                kept.token = Some(token.clone());
                Ok(token)
            }
            Err((at, error)) => {
                kept.failed = Some((at, error.clone()));
                let usable = kept.token.as_ref().filter(|token| token.lives_for(LEAST_LIFE));
                let Some(token) = usable else { return Err(error) };
                tracing::warn!("the token is not renewed yet: {error}");
                Ok(token.clone())
            }
        }
    }

    /// Asks, on the own thread, and waits.
    fn request(&self, scope: &str) -> Result<Token, TokenError> {
        let runtime = self.runtime.as_ref().expect("it is taken only when dropped");
        let (sender, receiver) = mpsc::channel();
        let ask = ask(self.identity.clone(), self.limits, scope.to_owned(), self.secrets.clone());
        let task = runtime.spawn(async move {
            // Nobody listens any more when the time is up.
            let _ = sender.send(ask.await);
        });
        // The attempts have their limits; this one is for a credential that blocks its thread.
        let limit = self.limits.all() + Duration::from_secs(2);
        receiver.recv_timeout(limit).unwrap_or_else(|_| {
            task.abort();
            Err(self.timed_out(scope, limit))
        })
    }

    fn timed_out(&self, scope: &str, limit: Duration) -> TokenError {
        let kind = self.identity.kind;
        let (identity, way_out) = (kind.name(), kind.way_out());
        TokenError::TimedOut { scope: scope.to_owned(), identity, limit, way_out }
    }
}

impl Drop for TokenSource {
    fn drop(&mut self) {
        // Waiting for it is not allowed on a thread of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource").field("kind", &self.identity.kind).finish_non_exhaustive()
    }
}

/// A lock whose data is whole even after a panic: it is replaced as one.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(
    identity: Credential,
    limits: Limits,
    scope: String,
    secrets: Vec<String>,
) -> Result<Token, TokenError> {
    let (name, way_out) = (identity.kind.name(), identity.kind.way_out());
    let mut attempt = 1;
    loop {
        let scopes = [scope.as_str()];
        let asked =
            tokio::time::timeout(limits.attempt, identity.credential.get_token(&scopes, None));
        let (why, transient) = match asked.await {
            Ok(Ok(token)) => match checked(token) {
                Ok(token) => return Ok(token),
                Err(why) => (why, false),
            },
            Ok(Err(error)) => (redacted(&said(&error), &secrets), passes(&error)),
            Err(_) => (format!("no answer in {} s", limits.attempt.as_secs_f64()), true),
        };
        if !transient || attempt >= limits.attempts {
            return Err(TokenError::Refused {
                scope,
                identity: name,
                attempts: attempt,
                why,
                way_out,
                transient,
            });
        }
        tracing::debug!("attempt {attempt} at a token for {scope} failed: {why}");
        tokio::time::sleep(limits.pause(attempt)).await;
        attempt += 1;
    }
}

fn checked(token: AccessToken) -> Result<Token, String> {
    let expires = SystemTime::from(token.expires_on);
    let secret = token.token.secret().to_owned();
    if secret.is_empty() || secret.contains('\0') {
        return Err("the token that came is empty, or has a zero byte".to_owned());
    }
    if expires <= SystemTime::now() {
        return Err("the token that came has expired; look at this machine's clock".to_owned());
    }
    Ok(Token { secret, expires })
}

/// The error of the SDK with its causes, each said once.
fn said(error: &azure_core::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Whether the same request may well succeed a little later.
fn passes(error: &azure_core::Error) -> bool {
    let status = |status: u16| status >= 500 || PASSING.contains(&status);
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<azure_core::Error>() {
            match error.kind() {
                ErrorKind::HttpResponse { status: code, .. } => return status((*code).into()),
                ErrorKind::Io | ErrorKind::Connection => return true,
                _ => {}
            }
        }
        cause = error.source();
    }
    false
}
