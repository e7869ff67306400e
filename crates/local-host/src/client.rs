//! Requests to the handler, sent as the real host sends them.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use uuid::Uuid;

/// The version of the real host that this one follows, as handlers see it.
const HOST_VERSION: &str = "4.1052.300.26370";

/// As .NET's HttpClient.
const MAX_REDIRECTS: usize = 50;

/// The largest answer that is read from a handler.
const MAX_ANSWER_BYTES: usize = 100 * 1024 * 1024;

/// A client for one handler process.
#[derive(Clone)]
pub(crate) struct Client {
    http: HyperClient<HttpConnector, RequestBody>,
    port: u16,
}

/// A handler's answer, with its body if the host would read it.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("cannot reach the handler")]
    Request(#[source] hyper_util::client::legacy::Error),
    #[error("the handler's answer broke off, or is larger than {MAX_ANSWER_BYTES} bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the handler redirected more than {MAX_REDIRECTS} times")]
    Redirects,
    #[error("the request cannot be built")]
    Build(#[source] hyper::http::Error),
}

impl Client {
    pub(crate) fn new(port: u16) -> Self {
        let http = HyperClient::builder(TokioExecutor::new()).build_http();
        Self { http, port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Asks whether the handler answers. Only a refused connection says no.
    pub(crate) async fn is_up(&self) -> bool {
        let request = Request::get(self.url("/")).body(RequestBody::empty());
        let Ok(request) = request else { return false };
        match self.http.request(request).await {
            Ok(_) => true,
            Err(error) => !error.is_connect(),
        }
    }

    /// Sends an invocation, with a chunked body as on the platform, and follows redirects.
    pub(crate) async fn invoke(
        &self,
        function: &str,
        id: Uuid,
        body: String,
    ) -> Result<Reply, ClientError> {
        let mut headers = host_headers(id);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json; charset=utf-8"),
        );
        let uri: Uri = self
            .url(&format!("/{function}"))
            .parse()
            .map_err(|error: hyper::http::uri::InvalidUri| ClientError::Build(error.into()))?;
        let response = self.follow(uri, headers, Bytes::from(body)).await?;
        if !response.status().is_success() {
            // The host does not read what a failure says; the handler has to log it.
            return Ok(Reply {
                status: response.status(),
                headers: response.headers().clone(),
                body: Bytes::new(),
            });
        }
        read(response).await
    }

    /// Sends a client's request on as it is.
    pub(crate) async fn forward(
        &self,
        method: Method,
        path_and_query: &str,
        mut headers: HeaderMap,
        id: Uuid,
        body: Bytes,
    ) -> Result<Reply, ClientError> {
        // Those belong to one connection, and the length follows from the body.
        const OF_THE_CONNECTION: [header::HeaderName; 5] = [
            header::CONNECTION,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
            header::CONTENT_LENGTH,
            header::EXPECT,
        ];
        for name in OF_THE_CONNECTION {
            headers.remove(name);
        }
        headers.extend(host_headers(id));
        let mut request = Request::builder().method(method).uri(self.url(path_and_query));
        if let Some(known) = request.headers_mut() {
            known.extend(headers);
        }
        let request = request.body(RequestBody::sized(body)).map_err(ClientError::Build)?;
        read(self.http.request(request).await.map_err(ClientError::Request)?).await
    }

    async fn follow(
        &self,
        mut uri: Uri,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut method = Method::POST;
        for _ in 0..=MAX_REDIRECTS {
            let body = match method {
                Method::POST => RequestBody::chunked(body.clone()),
                _ => RequestBody::empty(),
            };
            let mut request = Request::builder().method(method.clone()).uri(uri.clone());
            if let Some(known) = request.headers_mut() {
                known.extend(headers.clone());
            }
            let request = request.body(body).map_err(ClientError::Build)?;
            let response = self.http.request(request).await.map_err(ClientError::Request)?;
            let Some(target) = redirect_target(&uri, &response) else { return Ok(response) };
            if !matches!(response.status().as_u16(), 307 | 308) {
                // .NET turns a POST into a GET, and drops its content.
                method = Method::GET;
                headers.remove(header::CONTENT_TYPE);
            }
            uri = target;
        }
        Err(ClientError::Redirects)
    }
}

fn redirect_target(from: &Uri, response: &Response<Incoming>) -> Option<Uri> {
    if !matches!(response.status().as_u16(), 300..=303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let target: Uri = match location.starts_with("http://") {
        true => location.parse().ok()?,
        // Relative to the root is enough: an invocation's path has one segment.
        false => format!("http://{}/{}", from.authority()?, location.trim_start_matches('/'))
            .parse()
            .ok()?,
    };
    // A handler that sends its invocations to another machine is not followed.
    (target.host() == from.host()).then_some(target)
}

fn host_headers(id: Uuid) -> HeaderMap {
    let value = |text: String| HeaderValue::try_from(text).expect("only visible ASCII");
    let trace = Uuid::new_v4().simple().to_string();
    let span = &Uuid::new_v4().simple().to_string()[..16];
    let mut headers = HeaderMap::new();
    headers.insert("x-azure-functions-hostversion", HeaderValue::from_static(HOST_VERSION));
    headers.insert("x-azure-functions-invocationid", value(id.to_string()));
    headers.insert(header::USER_AGENT, value(format!("Azure-Functions-Host/{HOST_VERSION}")));
    headers.insert("traceparent", value(format!("00-{trace}-{span}-00")));
    headers
}

async fn read(response: Response<Incoming>) -> Result<Reply, ClientError> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(ClientError::Body)?;
    Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes() })
}

/// A request's body: one piece, of a length that is told or not.
pub(crate) struct RequestBody {
    piece: Option<Bytes>,
    tells_length: bool,
}

impl RequestBody {
    fn empty() -> Self {
        Self::sized(Bytes::new())
    }

    fn sized(body: Bytes) -> Self {
        Self { piece: Some(body).filter(|body| !body.is_empty()), tells_length: true }
    }

    fn chunked(body: Bytes) -> Self {
        Self { piece: Some(body), tells_length: false }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.piece.take().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.tells_length && self.piece.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.tells_length {
            true => SizeHint::with_exact(self.piece.as_ref().map_or(0, Bytes::len) as u64),
            false => SizeHint::default(),
        }
    }
}
