//! The app: its functions and its settings.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use tokio::sync::watch;
use tower::{Layer, Service, util::BoxCloneSyncService};

use crate::{
    answer::Answer,
    bindings::{Bindings, TriggerKind, check_function_name},
    context::Context,
    envelope::Envelope,
    error::{BoxError, OutputError, PayloadError, RegisterError},
    host_json::DEFAULT_FUNCTION_TIMEOUT,
    http_trigger::{self, HttpRequest, HttpResponse},
    invocation::{self, Dispatch, Invocation, InvocationService, Undecodable},
    outputs::{self, Outputs},
    service_bus::{self, ServiceBusMessage},
    timer::{self, TimerEvent},
};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The largest request that is read unless [`App::body_limit`] says otherwise: a message of 100 MB, the
/// most that Service Bus takes, in base64 and its envelope.
pub const DEFAULT_BODY_LIMIT: usize = 136 * 1024 * 1024;

/// Bodies above this are decoded on a thread of their own, so that other invocations go on.
const LARGE_BODY: usize = 1024 * 1024;

type Call = Box<dyn Fn(Bytes, Context) -> BoxFuture<Result<Answer, BoxError>> + Send + Sync>;
type Decode<Event> = fn(&Envelope<'_>, &Bindings) -> Result<Event, PayloadError>;
type Encode<Reply> = fn(Reply, &Bindings) -> Result<Answer, OutputError>;

/// A registered function.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) kind: TriggerKind,
    pub(crate) call: Call,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("name", &self.name).field("kind", &self.kind).finish()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) body_limit: usize,
    /// The longest pause in a body.
    pub(crate) body_idle: Duration,
    pub(crate) timeout: Option<Duration>,
    pub(crate) margin: Duration,
    pub(crate) shutdown_limit: Duration,
    pub(crate) app_root: Option<PathBuf>,
}

impl Settings {
    /// The time that a function is told to have.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.timeout.map(|timeout| timeout - self.margin.min(timeout / 4))
    }

    /// The time after which an invocation is cancelled.
    pub(crate) fn cut_off(&self) -> Option<Duration> {
        self.timeout.map(|timeout| timeout - self.margin.min(timeout / 4) / 2)
    }
}

/// What all invocations share.
pub(crate) struct Shared {
    pub(crate) functions: BTreeMap<String, Arc<Function>>,
    pub(crate) service: InvocationService,
    pub(crate) settings: Settings,
    pub(crate) stopping: Option<watch::Receiver<bool>>,
    /// How many invocations are running.
    pub(crate) running: AtomicUsize,
    /// How many came without an id.
    pub(crate) without_id: AtomicU64,
}

/// A function app: functions by the names of their folders, and how to serve them.
///
/// Each function is registered with the text of its function.json (`include_str!`), from which the runtime
/// takes the names and types of the bindings. State is shared by capturing it in the closures.
pub struct App {
    functions: BTreeMap<String, Arc<Function>>,
    service: InvocationService,
    pub(crate) settings: Settings,
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("functions", &self.functions.values())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl App {
    /// An app without functions.
    pub fn new() -> Self {
        let settings = Settings {
            body_limit: DEFAULT_BODY_LIMIT,
            body_idle: Duration::from_secs(60),
            timeout: Some(DEFAULT_FUNCTION_TIMEOUT),
            margin: Duration::from_secs(10),
            shutdown_limit: Duration::from_secs(10),
            app_root: std::env::var_os(crate::APP_ROOT_VARIABLE).map(PathBuf::from),
        };
        Self { functions: BTreeMap::new(), service: BoxCloneSyncService::new(Dispatch), settings }
    }

    /// Registers a function for a timer.
    ///
    /// # Errors
    /// If the host would not accept the name, the name is taken, or function.json is not for this handler.
    pub fn timer<F, Fut, R, E>(
        &mut self,
        name: &str,
        function_json: &str,
        function: F,
    ) -> Result<&mut Self, RegisterError>
    where
        F: Fn(TimerEvent, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
        R: Into<Outputs> + 'static,
        E: Into<BoxError> + 'static,
    {
        let kind = TriggerKind::Timer;
        self.register(name, function_json, kind, timer::decode, encode_outputs, function)
    }

    /// Registers a function for single messages of a queue or subscription.
    ///
    /// # Errors
    /// As [`timer`](Self::timer); also if `cardinality` is not `"one"`.
    pub fn service_bus<F, Fut, R, E>(
        &mut self,
        name: &str,
        function_json: &str,
        function: F,
    ) -> Result<&mut Self, RegisterError>
    where
        F: Fn(ServiceBusMessage, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
        R: Into<Outputs> + 'static,
        E: Into<BoxError> + 'static,
    {
        let kind = TriggerKind::ServiceBus;
        self.register(name, function_json, kind, service_bus::decode, encode_outputs, function)
    }

    /// Registers a function for batches of messages: they succeed or fail together, and the host does not
    /// renew their locks.
    ///
    /// # Errors
    /// As [`timer`](Self::timer); also if `cardinality` is not `"many"`.
    pub fn service_bus_batch<F, Fut, R, E>(
        &mut self,
        name: &str,
        function_json: &str,
        function: F,
    ) -> Result<&mut Self, RegisterError>
    where
        F: Fn(Vec<ServiceBusMessage>, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
        R: Into<Outputs> + 'static,
        E: Into<BoxError> + 'static,
    {
        let kind = TriggerKind::ServiceBusBatch;
        self.register(
            name,
            function_json,
            kind,
            service_bus::decode_batch,
            encode_outputs,
            function,
        )
    }

    /// Registers a function for HTTP requests. If it returns an error, the client gets status 500 from the
    /// host.
    ///
    /// # Errors
    /// As [`timer`](Self::timer); also if there is not exactly one output of type `http`.
    pub fn http<F, Fut, E>(
        &mut self,
        name: &str,
        function_json: &str,
        function: F,
    ) -> Result<&mut Self, RegisterError>
    where
        F: Fn(HttpRequest, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HttpResponse, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let kind = TriggerKind::Http;
        let encode: Encode<HttpResponse> = http_trigger::encode;
        self.register(name, function_json, kind, http_trigger::decode, encode, function)
    }

    fn register<Event, F, Fut, R, E>(
        &mut self,
        name: &str,
        function_json: &str,
        kind: TriggerKind,
        decode: Decode<Event>,
        encode: Encode<R>,
        function: F,
    ) -> Result<&mut Self, RegisterError>
    where
        Event: Send + 'static,
        F: Fn(Event, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
        R: 'static,
        E: Into<BoxError> + 'static,
    {
        check_function_name(name)?;
        if self.functions.keys().any(|other| other.eq_ignore_ascii_case(name)) {
            return Err(RegisterError::Twice { name: name.into() });
        }
        let bindings = Arc::new(Bindings::read(name, kind, function_json)?);
        let function = Arc::new(function);
        let call: Call = Box::new(move |body, context| {
            let (bindings, function) = (bindings.clone(), function.clone());
            Box::pin(async move {
                let event = event(body, bindings.clone(), decode).await?;
                let reply = function(event, context).await;
                Ok(encode(reply.map_err(Into::into)?, &bindings)?)
            })
        });
        let function = Arc::new(Function { name: name.into(), kind, call });
        self.functions.insert(name.into(), function);
        Ok(self)
    }

    /// Wraps every invocation in a layer; the last one added is the outermost.
    ///
    /// An error of the layer fails the invocation, as does a panic.
    pub fn layer<L>(&mut self, layer: L) -> &mut Self
    where
        L: Layer<InvocationService>,
        L::Service: Service<Invocation, Response = Answer> + Clone + Send + Sync + 'static,
        <L::Service as Service<Invocation>>::Error: Into<BoxError>,
        <L::Service as Service<Invocation>>::Future: Send + 'static,
    {
        let service = layer.layer(self.service.clone());
        self.service =
            BoxCloneSyncService::new(tower::util::MapErr::new(service, Into::into as fn(_) -> _));
        self
    }

    /// Sets the host's limit for an invocation, `None` for no limit; see
    /// [`host_json_timeout`](crate::host_json_timeout).
    pub fn function_timeout(&mut self, timeout: impl Into<Option<Duration>>) -> &mut Self {
        self.settings.timeout = timeout.into();
        self
    }

    /// Sets how long before the host's limit a function should have returned, 10 seconds unless set. When
    /// half of it is left, the invocation is cancelled. It counts for a quarter of the limit at most.
    pub fn deadline_margin(&mut self, margin: Duration) -> &mut Self {
        self.settings.margin = margin;
        self
    }

    /// Sets the largest request in bytes, as it is on the wire (base64 and escapes included); larger ones
    /// get status 413.
    ///
    /// Each running invocation may hold this much, and again its decoded body: the trigger's limit of
    /// parallel calls bounds the sum.
    pub fn body_limit(&mut self, bytes: usize) -> &mut Self {
        self.settings.body_limit = bytes;
        self
    }

    /// Sets the longest pause in a request's body, 60 seconds unless set.
    pub fn body_idle_limit(&mut self, limit: Duration) -> &mut Self {
        self.settings.body_idle = limit;
        self
    }

    /// Sets how long running invocations may go on after a signal to stop, 10 seconds unless set.
    pub fn shutdown_limit(&mut self, limit: Duration) -> &mut Self {
        self.settings.shutdown_limit = limit;
        self
    }

    /// The registered functions, by name.
    pub fn functions(&self) -> impl Iterator<Item = (&str, TriggerKind)> {
        self.functions.values().map(|function| (function.name.as_str(), function.kind))
    }

    pub(crate) fn into_shared(self, stopping: watch::Receiver<bool>) -> Arc<Shared> {
        Arc::new(Shared {
            functions: self.functions,
            service: self.service,
            settings: self.settings,
            stopping: Some(stopping),
            running: AtomicUsize::new(0),
            without_id: AtomicU64::new(0),
        })
    }
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(invocation::handle).with_state(shared)
}

fn encode_outputs<R: Into<Outputs>>(reply: R, bindings: &Bindings) -> Result<Answer, OutputError> {
    outputs::encode(reply.into(), bindings)
}

async fn event<Event: Send + 'static>(
    body: Bytes,
    bindings: Arc<Bindings>,
    decode: Decode<Event>,
) -> Result<Event, BoxError> {
    let large = body.len() > LARGE_BODY;
    let read = move || {
        let envelope = Envelope::read(&body)?;
        decode(&envelope, &bindings).map_err(Undecodable)
    };
    if !large {
        return Ok(read()?);
    }
    match tokio::task::spawn_blocking(read).await {
        Ok(event) => Ok(event?),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(error.into()),
        },
    }
}
