//! The HTTP side: routes of functions, and the admin API.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::admin;
use crate::client::Reply;
use crate::function::{AuthLevel, Function, HttpTrigger, Trigger};
use crate::host::Shared;
use crate::http_request::ClientRequest;
use crate::keys::Keys;
use crate::outputs::HttpAnswer;

/// The largest body that a client may send, as on the platform.
const MAX_BODY_BYTES: u64 = 210 * 1024 * 1024;

/// How long a client may take to send its headers.
const HEADER_LIMIT: Duration = Duration::from_secs(30);

/// How long a client may take to send its body.
const BODY_LIMIT: Duration = Duration::from_secs(120);

/// How long a client may take, once the host stops, to receive the last answer.
const LAST_ANSWER_LIMIT: Duration = Duration::from_millis(500);

const MAX_CONNECTIONS: usize = 1024;

/// What the platform answers in place of a function that takes longer than it waits.
const GATEWAY: StatusCode = StatusCode::BAD_GATEWAY;

/// The host's HTTP server.
pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    pub(crate) keys: Keys,
    /// Without slashes at the ends.
    pub(crate) prefix: String,
    /// By precedence; disabled functions are not among them.
    routes: Vec<Arc<Function>>,
    forwards: bool,
    response_limit: Duration,
    in_flight: Semaphore,
}

pub(crate) type Answer = Response<Full<Bytes>>;

/// A function and the parameters of its route.
type Match = (Arc<Function>, Vec<(String, String)>);

impl Server {
    pub(crate) fn new(
        shared: Arc<Shared>,
        keys: Keys,
        prefix: String,
        forwards: bool,
        response_limit: Duration,
        max_concurrent_requests: usize,
    ) -> Self {
        let mut routes: Vec<(Vec<u8>, Arc<Function>)> = Vec::new();
        for function in &shared.functions {
            if let Trigger::Http(http) = &function.trigger
                && !function.disabled
            {
                routes.push((http.route.precedence(), function.clone()));
            }
        }
        routes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let routes = routes.into_iter().map(|(_, function)| function).collect();
        let in_flight = Semaphore::new(max_concurrent_requests);
        Self { shared, keys, prefix, routes, forwards, response_limit, in_flight }
    }

    /// Accepts connections until the host stops, then lets those that are open end.
    pub(crate) async fn run(self, listener: TcpListener) {
        let server = Arc::new(self);
        let connections = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = server.shared.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => match slots.clone().try_acquire_owned() {
                    Ok(slot) => {
                        let server = server.clone();
                        connections.spawn(async move {
                            server.serve(stream).await;
                            drop(slot);
                        });
                    }
                    Err(_) => tracing::warn!("refused a connection: {MAX_CONNECTIONS} are open"),
                },
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    server.shared.pause(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let shared = self.shared.clone();
        let (busy, mut is_busy) = watch::channel(false);
        let service = service_fn(move |request| {
            let (server, busy) = (self.clone(), busy.clone());
            async move {
                busy.send_replace(true);
                let answer = server.answer(request).await;
                busy.send_replace(false);
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = shared.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let ending = async {
                    // Whoever is connected and asks nothing does not hold up the end.
                    tokio::select! {
                        _ = is_busy.wait_for(|busy| !busy) => {}
                        () = shared.kill.cancelled() => {}
                    }
                    tokio::time::sleep(LAST_ANSWER_LIMIT).await;
                };
                tokio::select! {
                    result = connection => result,
                    () = ending => Ok(()),
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!("a connection ended early: {error}");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let Ok(_slot) = self.in_flight.try_acquire() else {
            return text(StatusCode::TOO_MANY_REQUESTS, "too many requests at once");
        };
        let (parts, body) = request.into_parts();
        let hyper::http::request::Parts { method, uri, headers, .. } = parts;
        let mut request = ClientRequest { method, uri, headers, body: Bytes::new() };
        let path = request.uri.path();
        // Without keys, the only guard is that a web page cannot read what another site answers; a
        // name of its own that it has made to mean this machine would get round that.
        if !self.keys.are_required() && !names_this_machine(&request.headers) {
            return text(StatusCode::FORBIDDEN, "use the host's own address, or --require-keys");
        }
        if path == "/" {
            return text(StatusCode::OK, "the local functions host is running");
        }
        let is_admin = path == "/admin" || path.starts_with("/admin/");
        let found = if is_admin { None } else { self.find(&request) };
        let level = match found.as_ref().map(|(function, _)| &function.trigger) {
            Some(Trigger::Http(trigger)) => trigger.auth,
            _ if is_admin => AuthLevel::Admin,
            _ => return empty(StatusCode::NOT_FOUND),
        };
        let query = request.query();
        // Before the body is read: who has no key gets none of our memory.
        if !self.keys.allow(level, &request.headers, code(&query)) {
            return empty(StatusCode::UNAUTHORIZED);
        }
        request.body = match read(&request, body).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        match found {
            Some((function, parameters)) => self.invoke(function, request, parameters).await,
            None => admin::answer(&self, &request).await,
        }
    }

    /// The function whose route and method match, by precedence.
    fn find(&self, request: &ClientRequest) -> Option<Match> {
        let path = request.uri.path().strip_prefix('/')?;
        let path = match self.prefix.as_str() {
            "" => path,
            prefix => {
                let (first, rest) = path.split_at_checked(prefix.len())?;
                if !first.eq_ignore_ascii_case(prefix) {
                    return None;
                }
                rest.strip_prefix('/').or(rest.is_empty().then_some(""))?
            }
        };
        self.routes.iter().find_map(|function| {
            let Trigger::Http(HttpTrigger { methods, route, .. }) = &function.trigger else {
                return None;
            };
            let method = request.method.as_str();
            if !methods.is_empty() && !methods.iter().any(|known| known == method) {
                return None;
            }
            Some((function.clone(), route.matches(path)?))
        })
    }

    /// Runs the function in a task of the host, so that a client that goes away does not end it.
    async fn invoke(
        &self,
        function: Arc<Function>,
        request: ClientRequest,
        parameters: Vec<(String, String)>,
    ) -> Answer {
        let shared = self.shared.clone();
        let forwards = self.forwards && function.is_plain_http();
        let name = function.name.clone();
        let run = self.shared.work.spawn(async move {
            let id = Uuid::new_v4();
            if forwards {
                let path =
                    request.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
                let ClientRequest { method, headers, body, .. } = request;
                let reply =
                    shared.dispatcher.forward(&function, id, method, &path, headers, body).await;
                return reply.map_or_else(|_| empty(StatusCode::INTERNAL_SERVER_ERROR), forwarded);
            }
            let Trigger::Http(trigger) = &function.trigger else {
                return empty(StatusCode::NOT_FOUND);
            };
            let (value, metadata) = request.encode(&parameters);
            let data = (trigger.binding.as_str(), &value);
            match shared.dispatcher.invoke(&function, id, data, &metadata).await {
                Ok(answer) => response(answer),
                Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
            }
        });
        match tokio::time::timeout(self.response_limit, run).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => empty(StatusCode::INTERNAL_SERVER_ERROR),
            Err(_) => {
                let limit = self.response_limit;
                tracing::warn!(
                    function = %name,
                    "the client is not kept waiting longer than {limit:?}, as on the platform; the \
                     function goes on"
                );
                empty(GATEWAY)
            }
        }
    }
}

/// Whether the name that a client called the host by is an address or `localhost`; clients that are
/// no browsers need not say it.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(authority) = host.as_bytes().try_into() as Result<Authority, _> else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

/// The key in a query.
pub(crate) fn code(query: &[(String, String)]) -> Option<&str> {
    query.iter().find(|(name, _)| name.eq_ignore_ascii_case("code")).map(|(_, key)| key.as_str())
}

/// Reads a request's body, if its length is told.
async fn read(request: &ClientRequest, body: Incoming) -> Result<Bytes, Answer> {
    let length = request.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length: u64 = length.and_then(|value| value.parse().ok()).unwrap_or(0);
    if length > MAX_BODY_BYTES {
        return Err(empty(StatusCode::PAYLOAD_TOO_LARGE));
    }
    match length {
        0 => {
            if request.headers.contains_key(TRANSFER_ENCODING) {
                tracing::warn!(
                    "{} {}: the client sent a body without telling its length, and the host loses \
                     such a body, as on the platform; send Content-Length",
                    request.method,
                    request.uri.path()
                );
            }
            Ok(Bytes::new())
        }
        _ => {
            let body = Limited::new(body, MAX_BODY_BYTES as usize).collect();
            match tokio::time::timeout(BODY_LIMIT, body).await {
                Ok(Ok(body)) => Ok(body.to_bytes()),
                Ok(Err(_)) => Err(empty(StatusCode::BAD_REQUEST)),
                Err(_) => Err(empty(StatusCode::REQUEST_TIMEOUT)),
            }
        }
    }
}

fn response(answer: HttpAnswer) -> Answer {
    let has_body = !answer.body.is_empty();
    let mut response = Response::new(Full::from(answer.body));
    let Ok(status) = StatusCode::from_u16(answer.status) else {
        return empty(StatusCode::INTERNAL_SERVER_ERROR);
    };
    *response.status_mut() = status;
    for (name, value) in answer.headers {
        // The host decides about the connection and the length itself.
        match (HeaderName::try_from(&name), HeaderValue::try_from(&value)) {
            (Ok(CONTENT_LENGTH | TRANSFER_ENCODING | CONNECTION), _) => {}
            (Ok(name), Ok(value)) => {
                response.headers_mut().append(name, value);
            }
            _ => {
                tracing::error!("the handler's response header {name:?} cannot be sent");
                return empty(StatusCode::INTERNAL_SERVER_ERROR);
            }
        }
    }
    if has_body && !response.headers().contains_key(CONTENT_TYPE) {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
    }
    response
}

fn forwarded(reply: Reply) -> Answer {
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION] {
        response.headers_mut().remove(name);
    }
    response
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    text(status, "")
}

/// A response of plain text.
pub(crate) fn text(status: StatusCode, body: &str) -> Answer {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// A response of JSON.
pub(crate) fn json(status: StatusCode, body: &crate::json::Json) -> Answer {
    let mut response = Response::new(Full::from(body.to_text()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_keys_goes_by_addresses_and_localhost_only() {
        let of = |host: &str| {
            let value = HeaderValue::try_from(host).unwrap();
            names_this_machine(&HeaderMap::from_iter([(HOST, value)]))
        };
        for own in ["127.0.0.1:7071", "localhost:7071", "LOCALHOST", "[::1]:7071", "a.localhost"] {
            assert!(of(own), "{own}");
        }
        for foreign in ["evil.example:7071", "localhost.evil.example", "127.0.0.1.evil.example", ""]
        {
            assert!(!of(foreign), "{foreign:?}");
        }
        assert!(names_this_machine(&HeaderMap::new()));
    }
}
