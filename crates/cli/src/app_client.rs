//! Talking to a function app over HTTP.

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::env_vars::{self, FLEXKEEP_API_KEY, FLEXKEEP_URL};
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::Output;

/// The host on this machine.
const DEFAULT_URL: &str = "http://127.0.0.1:7071";

/// The platform gives up on an HTTP function after 230 s.
const TIMEOUT: Duration = Duration::from_secs(240);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest answer that is read: a list of many thousand backups.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// How often an app is asked how far something is.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Questions that may fail in a row while something is waited for.
const MAX_FAILED_ASKS: u32 = 30;

/// What an app says of something that is waited for.
pub(crate) enum Poll<T> {
    /// It has ended, in this way.
    Ended(T),
    /// It goes on; a line for people, empty where there is nothing to say.
    GoesOn(String),
}

/// Asks until something has ended, and shows each new line on the way; none when the time is up.
///
/// # Errors
/// That of the last question, if it is one too many that failed in a row.
pub(crate) fn poll<T>(
    limit: Duration,
    output: &Output,
    mut ask: impl FnMut() -> Result<Poll<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let until = Instant::now() + limit;
    let (mut failed_asks, mut shown) = (0, String::new());
    loop {
        match ask() {
            Ok(Poll::Ended(end)) => return Ok(Some(end)),
            Ok(Poll::GoesOn(line)) => {
                failed_asks = 0;
                if !output.quiet && !output.json && !line.is_empty() && line != shown {
                    SCREEN.print(&line);
                    shown = line;
                }
            }
            Err(failure) => {
                failed_asks += 1;
                if failed_asks >= MAX_FAILED_ASKS {
                    return Err(failure);
                }
            }
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(ASK_EVERY.min(until.saturating_duration_since(Instant::now())));
    }
}

/// A function app.
pub(crate) struct AppClient {
    agent: ureq::Agent,
    base: String,
    key: Option<String>,
}

impl AppClient {
    /// The app at `url`, or of the environment, or the one on this machine.
    pub(crate) fn new(url: Option<&str>) -> Result<Self, Failure> {
        let url = match url {
            Some(url) => url.to_owned(),
            None => env_vars::get(FLEXKEEP_URL)?.unwrap_or_else(|| DEFAULT_URL.to_owned()),
        };
        let base = url.trim_end_matches('/').trim_end_matches("/api").to_owned();
        let rest = base.strip_prefix("http://").or_else(|| base.strip_prefix("https://"));
        let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
        match host {
            Some(host) if !host.is_empty() && !host.contains('@') && !base.contains('?') => {}
            _ => {
                // Not repeated: people paste keys into URLs.
                return Err(Failure::usage("the URL of the function app cannot be used").hint(
                    format!(
                        "expected http://HOST[:PORT] or https://HOST, with the key in \
                         {FLEXKEEP_API_KEY} and not in the URL"
                    ),
                ));
            }
        }
        let key = env_vars::get(FLEXKEEP_API_KEY)?;
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .http_status_as_error(false)
            // A redirect would carry the key to who knows where.
            .max_redirects(0)
            .user_agent(concat!("flexkeep/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self { agent, base, key })
    }

    /// The app, for people.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header("x-functions-key", key);
        }
        let body = self.read(request.call())?;
        self.parse(&body)
    }

    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Result<T, Failure> {
        let body = self.read(self.send(path, body, headers))?;
        self.parse(&body)
    }

    /// A post whose answer has no content.
    pub(crate) fn post_quietly(&self, path: &str, body: &Value) -> Result<(), Failure> {
        self.read(self.send(path, body, &[])).map(|_| ())
    }

    fn send(
        &self,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        // As text, so that it goes with a Content-Length: the host loses bodies without one.
        let mut request = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("x-functions-key", key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send(body.to_string())
    }

    fn read(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Vec<u8>, Failure> {
        let base = &self.base;
        let unreachable = |error: ureq::Error| {
            let error = anyhow::Error::new(error).context(format!("cannot reach {base}"));
            Failure::new(Exit::Failed, error)
                .hint("is the host running? `flexkeep host --app FOLDER` starts it")
        };
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let read = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let body = read.map_err(unreachable)?;
        if status.is_success() {
            return Ok(body);
        }
        let said = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|value| value["error"].as_str().map(str::to_owned));
        let words = said.unwrap_or_else(|| format!("it answered {status}"));
        let failure = Failure::new(
            if status.is_client_error() { Exit::Usage } else { Exit::Failed },
            anyhow::anyhow!("{base}: {words}"),
        );
        Err(match status.as_u16() {
            401 | 403 => {
                failure.hint(format!("put a key of the function app into {FLEXKEEP_API_KEY}"))
            }
            500.. => failure.hint("the log of the host says more"),
            _ => failure,
        })
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(body).map_err(|error| {
            let what = format!("{} answered with something that is not flexkeep's", self.base);
            Failure::new(Exit::Failed, anyhow::Error::new(error).context(what))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_used_is_not_repeated() {
        for url in ["hunter2", "ftp://h", "http://", "http://u:hunter2@h", "http://h/?code=hunter2"]
        {
            let Err(failure) = AppClient::new(Some(url)) else { panic!("{url}") };
            assert_eq!(failure.exit, Exit::Usage);
            assert!(!format!("{:#}", failure.error).contains("hunter2"));
        }
        for url in ["http://h:1", "https://x.example/", "http://h/api", "http://h/api/"] {
            assert!(AppClient::new(Some(url)).is_ok(), "{url}");
        }
    }

    fn quiet() -> Output {
        let progress = crate::output::ProgressMode::None;
        Output { json: false, quiet: true, verbose: 0, progress }
    }

    #[test]
    fn what_is_waited_for_may_fail_to_answer_but_not_for_ever() {
        let mut answers = vec![
            Ok(Poll::Ended("sealed")),
            Ok(Poll::GoesOn("at work".to_owned())),
            Err(Failure::usage("no answer")),
        ];
        let end = poll(Duration::from_secs(60), &quiet(), || answers.pop().unwrap()).unwrap();
        assert_eq!(end, Some("sealed"));
        let end = poll(Duration::ZERO, &quiet(), || Ok(Poll::<()>::GoesOn(String::new()))).unwrap();
        assert_eq!(end, None, "the time is up after the first answer");
    }
}
