//! One invocation: from a request to an answer.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{self, Poll},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use tower::{Service, ServiceExt as _, util::BoxCloneSyncService};
use tracing::Instrument as _;

use crate::{
    answer::Answer,
    app::{BoxFuture, Function, Shared},
    bindings::TriggerKind,
    body::{self, BodyError},
    context::{Context, Facts},
    error::{BoxError, PayloadError},
    panics,
    text::{chain, quoted},
};

/// A function about to be called; what a layer of [`App::layer`](crate::App::layer) sees.
#[derive(Debug)]
pub struct Invocation {
    pub(crate) context: Context,
    pub(crate) function: Arc<Function>,
    pub(crate) body: Bytes,
}

impl Invocation {
    /// What the function will know about its invocation.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The trigger of the function.
    pub fn trigger(&self) -> TriggerKind {
        self.function.kind
    }
}

/// What layers wrap: from an invocation to its answer.
pub type InvocationService = BoxCloneSyncService<Invocation, Answer, BoxError>;

/// The innermost service: calls the function.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch;

impl Service<Invocation> for Dispatch {
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, invocation: Invocation) -> Self::Future {
        let Invocation { context, function, body } = invocation;
        (function.call)(body, context)
    }
}

/// Why an invocation fails.
struct Failure {
    status: StatusCode,
    words: String,
}

impl Failure {
    fn new(status: StatusCode, words: impl Into<String>) -> Self {
        Self { status, words: words.into() }
    }
}

/// Every request comes here: the host's `GET /`, invocations, and what does not belong here.
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path();
    if path == "/" && matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond(StatusCode::OK, b"{}".to_vec());
    }
    let Some(function) = shared.functions.get(path.strip_prefix('/').unwrap_or(path)) else {
        let known: Vec<&str> = shared.functions.keys().map(String::as_str).collect();
        let words =
            format!("no function has the path {}; a function's path is its name", quoted(path));
        tracing::error!(known = ?known, "{words}");
        return respond(
            StatusCode::NOT_FOUND,
            json!({"error": words, "functions": known}).to_string(),
        );
    };
    if request.method() != Method::POST {
        let words = format!("functions are invoked by POST, not {}", request.method());
        tracing::error!(path, "{words}");
        let mut response =
            respond(StatusCode::METHOD_NOT_ALLOWED, json!({"error": words}).to_string());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let function = function.clone();
    let context = context(&shared, &function, request.headers());
    // At the level of errors, so that no filter takes the ids away from them.
    let span = tracing::error_span!(
        "invocation",
        function = context.function_name(),
        id = context.invocation_id()
    );
    invoke(shared, function, context, request).instrument(span).await
}

fn context(shared: &Shared, function: &Function, headers: &HeaderMap) -> Context {
    let text = |name: &str| {
        headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let id = text("x-azure-functions-invocationid").filter(|id| !id.is_empty());
    let facts = Facts {
        function: function.name.clone(),
        id: id.unwrap_or_else(|| {
            format!("local-{}", shared.without_id.fetch_add(1, Ordering::Relaxed) + 1)
        }),
        host_version: text("x-azure-functions-hostversion"),
        traceparent: text("traceparent"),
        deadline: shared.settings.deadline().and_then(|time| Instant::now().checked_add(time)),
        app_root: shared.settings.app_root.clone(),
    };
    Context::new(facts, shared.stopping.clone())
}

async fn invoke(
    shared: Arc<Shared>,
    function: Arc<Function>,
    context: Context,
    request: Request,
) -> Response {
    let started = Instant::now();
    let mut running = Running::start(shared.clone());
    let run = panics::catch(run(shared.clone(), function, context.clone(), request));
    let outcome = match shared.settings.cut_off() {
        None => run.await,
        Some(limit) => match tokio::time::timeout(limit, run).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(Err(too_long(limit))),
        },
    };
    running.finished = true;
    let outcome =
        outcome.unwrap_or_else(|panic| Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, panic)));
    match outcome {
        Ok(answer) => {
            tracing::debug!(ms = started.elapsed().as_millis() as u64, "done");
            respond(StatusCode::OK, answer.into_body(context.take_logs()))
        }
        Err(Failure { status, words }) => {
            // The host reads the lines of successful answers only.
            for line in context.take_logs() {
                tracing::info!("{line}");
            }
            let mut line = String::new();
            crate::text::push_escaped(&mut line, &words);
            crate::text::cut(&mut line);
            tracing::error!(ms = started.elapsed().as_millis() as u64, "failed: {line}");
            let id = context.invocation_id();
            let body =
                json!({"error": line, "function": context.function_name(), "invocationId": id});
            respond(status, body.to_string())
        }
    }
}

async fn run(
    shared: Arc<Shared>,
    function: Arc<Function>,
    context: Context,
    request: Request,
) -> Result<Answer, Failure> {
    let (parts, body) = request.into_parts();
    let settings = &shared.settings;
    let body = body::read(&parts.headers, body, settings.body_limit, settings.body_idle).await;
    let body = body.map_err(|error| {
        let status = match &error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Idle { .. } => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        Failure::new(status, chain(&error))
    })?;
    drop(parts);
    let invocation = Invocation { context, function, body };
    let called = shared.service.clone().oneshot(invocation).await;
    called.map_err(|error| {
        let status = if error.is::<Undecodable>() {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Failure::new(status, chain(&*error))
    })
}

/// The host's payload can't be read: the host's fault or the function.json's, not the function's.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Undecodable(#[from] pub(crate) PayloadError);

fn too_long(limit: Duration) -> Failure {
    let words = format!(
        "cancelled after {} s, because at its time limit the host would kill the process and every other \
         invocation with it: return before Context::deadline, or raise functionTimeout in host.json",
        limit.as_secs_f32()
    );
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, words)
}

fn respond(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Counts an invocation, and notices when it is dropped half-way.
struct Running {
    shared: Arc<Shared>,
    finished: bool,
}

impl Running {
    fn start(shared: Arc<Shared>) -> Self {
        shared.running.fetch_add(1, Ordering::Relaxed);
        Self { shared, finished: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, Ordering::Relaxed);
        if !self.finished {
            tracing::error!(
                "dropped half-way: the host closed the connection, or the process stops"
            );
        }
    }
}
