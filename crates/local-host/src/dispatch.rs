//! One invocation: from a trigger's value to the handler, and from its answer to the outputs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flexkeep_bus::Message;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::client::{ClientError, Reply};
use crate::encode::{Metadata, Value, envelope};
use crate::events::{Events, HostEvent};
use crate::function::{Function, Target};
use crate::outputs::{Answer, AnswerError, HttpAnswer, decode};
use crate::process::{Generation, Handler, NotReady};
use crate::queues::{Databases, chain};

/// The real host waits this long at a time-out before it kills the handler.
const TIMEOUT_GRACE: Duration = Duration::from_secs(2);

/// An answer that was sent before the process died may take this long to be read.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Why an invocation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvokeError {
    #[error(transparent)]
    NotReady(#[from] NotReady),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the handler's process ended while the function ran")]
    HandlerDied,
    #[error("the function ran longer than {limit:?}, so the handler was killed")]
    TimedOut { limit: Duration },
    #[error("the handler answered with status {status}")]
    Status { status: StatusCode },
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("cannot send to queue {queue}")]
    Send { queue: String, source: flexkeep_bus::BusError },
}

/// Invokes functions.
pub(crate) struct Dispatcher {
    pub(crate) handler: Handler,
    pub(crate) databases: Databases,
    pub(crate) events: Events,
    /// `None` is without limit.
    pub(crate) function_timeout: Option<Duration>,
    pub(crate) initialization_timeout: Duration,
    /// Cancelled when an invocation waited in vain for the handler to become ready.
    pub(crate) never_ready: CancellationToken,
    pub(crate) in_flight: InFlight,
}

/// Counts the invocations that run.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<AtomicUsize>);

struct Counted(Arc<AtomicUsize>);

impl InFlight {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn enter(&self) -> Counted {
        self.0.fetch_add(1, Ordering::SeqCst);
        Counted(self.0.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Dispatcher {
    /// Runs a function with its trigger's value, outputs included.
    pub(crate) async fn invoke(
        &self,
        function: &Function,
        id: Uuid,
        data: (&str, &Value),
        metadata: &Metadata,
    ) -> Result<HttpAnswer, InvokeError> {
        self.observed(function, id, async {
            let generation = self.ready().await?;
            let body = envelope(&function.name, data, metadata, Timestamp::now());
            let call = generation.client.invoke(&function.name, id, body);
            let reply = self.limited(&generation, call).await?;
            let answer = read_reply(function, &reply)?;
            for warning in &answer.warnings {
                tracing::warn!("{warning}");
            }
            for line in &answer.logs {
                tracing::info!("{line}");
            }
            self.send_outputs(function, id, answer).await
        })
        .await
    }

    /// Passes an HTTP request on as it is; any answer of the handler is a success.
    pub(crate) async fn forward(
        &self,
        function: &Function,
        id: Uuid,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, InvokeError> {
        self.observed(function, id, async {
            let generation = self.ready().await?;
            let call = generation.client.forward(method, path_and_query, headers, id, body);
            self.limited(&generation, call).await
        })
        .await
    }

    async fn ready(&self) -> Result<Arc<Generation>, InvokeError> {
        // Three restarts and the first start, as the host counts.
        let ready = self.handler.ready(self.initialization_timeout * 4).await;
        if matches!(ready, Err(NotReady::TimedOut { .. })) {
            self.never_ready.cancel();
        }
        Ok(ready?)
    }

    /// Logs and reports how an invocation went.
    async fn observed<T>(
        &self,
        function: &Function,
        id: Uuid,
        work: impl Future<Output = Result<T, InvokeError>>,
    ) -> Result<T, InvokeError> {
        let _counted = self.in_flight.enter();
        let span = tracing::info_span!("invocation", function = %function.name, %id);
        async {
            tracing::info!("executing");
            let started = Instant::now();
            let result = work.await;
            let ms = started.elapsed().as_millis() as u64;
            let error = result.as_ref().err().map(|error| chain(error));
            match (&error, &result) {
                (Some(error), Err(InvokeError::Answer(cause))) if cause.hangs_on_the_platform() => {
                    tracing::error!(
                        ms,
                        "failed: {error}. ON THE PLATFORM THIS HANGS until functionTimeout, and \
                         then the handler is killed: always answer with a JSON object, {{}} at least"
                    );
                }
                (Some(error), _) => tracing::error!(ms, "failed: {error}"),
                (None, _) => tracing::info!(ms, "succeeded"),
            }
            let (function, ok) = (function.name.clone(), error.is_none());
            self.events.emit(HostEvent::Invoked { function, id, ok, ms, error });
            result
        }
        .instrument(span)
        .await
    }

    /// A call to the handler, up to the function's time-out or the death of the process.
    async fn limited(
        &self,
        generation: &Generation,
        call: impl Future<Output = Result<Reply, ClientError>>,
    ) -> Result<Reply, InvokeError> {
        let died = async {
            generation.ended.cancelled().await;
            // What the process started may hold the connection open, so its end is not waited for.
            tokio::time::sleep(LAST_WORDS).await;
        };
        let timeout = async {
            match self.function_timeout {
                Some(limit) => {
                    tokio::time::sleep(limit).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            reply = call => match reply {
                Ok(reply) => Ok(reply),
                // The connection breaks a moment before the process is known to be gone.
                Err(error) => {
                    let known = tokio::time::timeout(LAST_WORDS, generation.ended.cancelled());
                    Err(if known.await.is_ok() { InvokeError::HandlerDied } else { error.into() })
                }
            },
            () = died => Err(InvokeError::HandlerDied),
            limit = timeout => {
                tracing::error!("timed out after {limit:?}; the handler will be killed");
                let ended = generation.ended.cancelled();
                let _ = tokio::time::timeout(TIMEOUT_GRACE, ended).await;
                self.handler.kill(generation).await;
                Err(InvokeError::TimedOut { limit })
            }
        }
    }

    async fn send_outputs(
        &self,
        function: &Function,
        id: Uuid,
        answer: Answer,
    ) -> Result<HttpAnswer, InvokeError> {
        for (place, texts) in answer.messages {
            let Target::Queue { connection, queue } = &function.outputs[place].target else {
                continue;
            };
            let messages = texts.into_iter().map(|text| output_message(text, id)).collect();
            let sent = self.databases.of(connection).send(queue, messages).await;
            sent.map_err(|source| InvokeError::Send { queue: queue.clone(), source })?;
        }
        Ok(answer.http)
    }
}

fn read_reply(function: &Function, reply: &Reply) -> Result<Answer, InvokeError> {
    if !reply.status.is_success() {
        return Err(InvokeError::Status { status: reply.status });
    }
    let content_type = reply.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Ok(decode(function, reply.status.as_u16(), content_type, &reply.body)?)
}

/// A message as the Service Bus output binding makes it: text, and who sent it.
fn output_message(text: String, id: Uuid) -> Message {
    Message {
        id: Uuid::new_v4().simple().to_string(),
        body: text.into_bytes(),
        content_type: Some("text/plain".to_owned()),
        subject: None,
        correlation_id: None,
        session_id: None,
        properties: BTreeMap::from([("$AzureWebJobsParentId".to_owned(), id.to_string().into())]),
        deliver_at: None,
    }
}
