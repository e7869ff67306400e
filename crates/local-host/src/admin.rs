//! The admin API: status, running a function at once, and drain mode.
//!
//! As on the platform, and with two additions: `?wait=true` when a function is run answers when it
//! is done (200, or 500 with the cause), and every such answer names the invocation in
//! `x-azure-functions-invocationid`.

use std::sync::Arc;

use flexkeep_bus::{Delivery, Message};
use hyper::header::{CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::{Method, StatusCode};
use jiff::{Timestamp, ToSpan as _};
use uuid::Uuid;

use crate::encode::{Metadata, Value, timer_info};
use crate::function::{AuthLevel, Function, QueueTrigger, Trigger, TriggerInfo};
use crate::host::Shared;
use crate::http::{Answer, Server, code, empty, json, text};
use crate::http_request::ClientRequest;
use crate::json::{Json, object};
use crate::message;
use crate::queues::chain;
use crate::timer::TimerFiles;

pub(crate) async fn answer(server: &Server, request: &ClientRequest) -> Answer {
    let query = request.query();
    if !server.keys.allow(AuthLevel::Admin, &request.headers, code(&query)) {
        return empty(StatusCode::UNAUTHORIZED);
    }
    // Without keys, a page in this machine's browser must not be able to run functions.
    if !server.keys.are_required() && request.headers.contains_key(ORIGIN) {
        return text(StatusCode::FORBIDDEN, "the admin API does not answer web pages");
    }
    let shared = &server.shared;
    let path: Vec<&str> = request.uri.path().trim_matches('/').split('/').skip(1).collect();
    match (&request.method, path.as_slice()) {
        (&Method::GET, ["host", "ping"]) => empty(StatusCode::OK),
        (&Method::GET, ["host", "status"]) => json(StatusCode::OK, &status(server)),
        (&Method::GET, ["functions"]) => json(StatusCode::OK, &functions(server)),
        (&Method::POST, ["host", "drain"]) => {
            shared.drain(true);
            empty(StatusCode::ACCEPTED)
        }
        (&Method::POST, ["host", "resume"]) => {
            shared.drain(false);
            json(StatusCode::OK, &object([("state", state(shared).into())]))
        }
        (&Method::GET, ["host", "drain", "status"]) => json(StatusCode::OK, &drain_status(shared)),
        (&Method::POST, ["functions", name]) => {
            let waits = query.iter().any(|(name, value)| name == "wait" && value != "false");
            run(shared, name, request, waits).await
        }
        _ => empty(StatusCode::NOT_FOUND),
    }
}

fn state(shared: &Shared) -> &'static str {
    match (shared.stop.is_cancelled(), shared.dispatcher.handler.pid()) {
        (true, _) => "Stopping",
        (false, Some(_)) => "Running",
        (false, None) => "Initialized",
    }
}

fn status(server: &Server) -> Json {
    let shared = &server.shared;
    let pid = shared.dispatcher.handler.pid();
    let handler = object([
        ("port", u64::from(shared.handler_port).into()),
        ("ready", pid.is_some().into()),
        ("pid", pid.map_or(Json::Null, |pid| u64::from(pid).into())),
    ]);
    object([
        ("id", shared.id.to_string().into()),
        ("state", state(shared).into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("processUptime", (shared.started.elapsed().as_millis() as u64).into()),
        ("draining", shared.is_draining().into()),
        ("inFlight", (shared.dispatcher.in_flight.count() as u64).into()),
        ("handler", handler),
        ("functions", functions(server)),
    ])
}

fn functions(server: &Server) -> Json {
    let text = |text: String| Json::String(text);
    let describe = |function: &Arc<Function>| {
        let info = function.info(&server.prefix);
        let trigger = match info.trigger {
            TriggerInfo::Timer { schedule } => {
                object([("type", "timerTrigger".into()), ("schedule", text(schedule))])
            }
            TriggerInfo::Queue { queue, connection } => object([
                ("type", "serviceBusTrigger".into()),
                ("queueName", text(queue)),
                ("connection", text(connection)),
            ]),
            TriggerInfo::Http { route, methods, .. } => object([
                ("type", "httpTrigger".into()),
                ("route", text(route)),
                ("methods", Json::Array(methods.into_iter().map(text).collect())),
            ]),
        };
        object([
            ("name", text(info.name)),
            ("disabled", info.disabled.into()),
            ("trigger", trigger),
        ])
    };
    Json::Array(server.shared.functions.iter().map(describe).collect())
}

fn drain_status(shared: &Shared) -> Json {
    let in_flight = shared.dispatcher.in_flight.count();
    let state = match (shared.is_draining(), in_flight) {
        (false, _) => "Disabled",
        (true, 0) => "Completed",
        (true, _) => "InProgress",
    };
    object([
        ("state", state.into()),
        ("outstandingInvocations", (in_flight as u64).into()),
        ("outstandingRetries", 0.into()),
    ])
}

/// Runs a timer or queue function at once, whatever its schedule; `input` is a message's body.
async fn run(shared: &Arc<Shared>, name: &str, request: &ClientRequest, waits: bool) -> Answer {
    let found = shared.functions.iter().find(|function| function.name.eq_ignore_ascii_case(name));
    let Some(function) = found else { return empty(StatusCode::NOT_FOUND) };
    let content_type = request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.unwrap_or_default().to_lowercase().starts_with("application/json") {
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json");
    }
    let body = Json::parse(&request.body);
    let input = match body.as_ref().map(|body| body.get_any_case("input")) {
        Ok(Some(Json::String(input))) => input.clone(),
        Ok(Some(Json::Null)) | Ok(None) if matches!(body, Ok(Json::Object(_))) => String::new(),
        Ok(Some(other)) => other.to_text(),
        _ => return text(StatusCode::BAD_REQUEST, "send a JSON object such as {\"input\":\"\"}"),
    };
    let (value, metadata) = match &function.trigger {
        Trigger::Timer(timer) => {
            let files = TimerFiles::new(&shared.state_dir, &function.name);
            let status = timer.use_monitor.then(|| files.read()).flatten();
            let value = timer_info(timer.schedule.adjusts_for_dst(), status.as_ref(), false);
            (value, Metadata::default())
        }
        Trigger::Queue(queue) => match queue_input(queue, input) {
            Ok(encoded) => encoded,
            Err(problem) => return text(StatusCode::BAD_REQUEST, &problem),
        },
        Trigger::Http(_) => {
            return text(StatusCode::BAD_REQUEST, "call an HTTP function at its route");
        }
    };
    let id = Uuid::new_v4();
    let run = shared.work.spawn(invoke(shared.clone(), function.clone(), id, value, metadata));
    let mut answer = match waits {
        false => empty(StatusCode::ACCEPTED),
        true => match run.await {
            Ok(Ok(())) => empty(StatusCode::OK),
            Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, &error),
            Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
        },
    };
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        answer.headers_mut().insert("x-azure-functions-invocationid", id);
    }
    answer
}

async fn invoke(
    shared: Arc<Shared>,
    function: Arc<Function>,
    id: Uuid,
    value: Value,
    metadata: Metadata,
) -> Result<(), String> {
    let binding = match &function.trigger {
        Trigger::Timer(timer) => &timer.binding,
        Trigger::Queue(queue) => &queue.binding,
        Trigger::Http(http) => &http.binding,
    };
    let result = shared.dispatcher.invoke(&function, id, (binding, &value), &metadata).await;
    result.map(|_| ()).map_err(|error| chain(&error))
}

/// A message that never was on the queue.
fn queue_input(trigger: &QueueTrigger, input: String) -> Result<(Value, Metadata), String> {
    let now = Timestamp::now();
    let delivery = Delivery {
        message: Message::new(Uuid::new_v4().simple().to_string(), input),
        delivery_count: 1,
        sequence_number: 0,
        enqueued_at: now,
        expires_at: now.checked_add(336.hours()).unwrap_or(now),
        locked_until: now,
        lock: Uuid::nil().to_string().parse().map_err(|_| "no lock token".to_owned())?,
    };
    match trigger.batches {
        false => Ok(message::one(&delivery, trigger.data_type)),
        true => message::many(std::slice::from_ref(&delivery), trigger.data_type),
    }
}
