//! HTTP: how things are, the list of backups, and "back up now". docs/api.md has it for users.

mod routes;

use flexkeep_functions::{BoxError, Context, HttpRequest, HttpResponse, StatusCode};
use flexkeep_service::{DrillOrder, Order, RestoreOrder, Service, ServiceError, What};
use flexkeep_vault::VaultError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use routes::{ROUTES, Route};

/// Longest body that is read, bytes.
const MAX_BODY_BYTES: usize = 16 << 10;

/// The type of its body.
const JSON: &str = "application/json";

/// The body of "back up now".
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackUpNow {
    server: String,
}

/// The body that asks for a restore or a drill.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreNow {
    server: String,
    restore: Option<RestoreOrder>,
    drill: Option<DrillOrder>,
}

/// An answer that is no success.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

pub(crate) async fn run(
    service: Service,
    request: HttpRequest,
    cx: Context,
) -> Result<HttpResponse, BoxError> {
    match answer(&service, &request, &cx).await {
        Ok(response) => Ok(response?),
        Err(refusal) => {
            if refusal.status.is_server_error() {
                // Not the query: it may have the key (`?code=`).
                let url = request.url.split(['?', '#']).next().unwrap_or_default();
                tracing::error!("{} {url}: {}", request.method, refusal.message);
            }
            Ok(HttpResponse::json(refusal.status, &json!({"error": refusal.message}))?)
        }
    }
}

type Answer = Result<HttpResponse, flexkeep_functions::OutputError>;

async fn answer(service: &Service, request: &HttpRequest, cx: &Context) -> Result<Answer, Refusal> {
    let path = request.param("path").unwrap_or_default();
    match Route::find(&request.method, path)? {
        Route::Status => {
            let status = service.status().await.map_err(refusal)?;
            Ok(HttpResponse::json(StatusCode::OK, &status))
        }
        Route::Backups => {
            let server = request.query("server").map(str::to_owned);
            let backups = service.backups(server.as_deref()).await.map_err(refusal)?;
            Ok(HttpResponse::json(StatusCode::OK, &json!({"backups": backups})))
        }
        Route::Backup(id) => {
            let manifest = service.manifest(&id).await.map_err(refusal)?;
            Ok(HttpResponse::json(StatusCode::OK, &manifest))
        }
        Route::BackUpNow => back_up_now(service, request, cx).await,
        Route::Restore => restore(service, request).await,
        Route::RestoreNow => restore_now(service, request, cx).await,
    }
}

async fn back_up_now(
    service: &Service,
    request: &HttpRequest,
    cx: &Context,
) -> Result<Answer, Refusal> {
    let expected = "{\"server\": \"NAME\"}";
    let body: BackUpNow = body_of(request, expected)?;
    // Whoever asks twice with one key gets one backup.
    let key = request.header("idempotency-key").unwrap_or_else(|| cx.invocation_id());
    let asked = service.back_up_now(&body.server, key).await.map_err(refusal)?;
    let status = if asked.known.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(HttpResponse::json(status, &asked))
}

/// A body of JSON.
fn body_of<T: DeserializeOwned>(request: &HttpRequest, expected: &str) -> Result<T, Refusal> {
    if request.body.len() > MAX_BODY_BYTES {
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body has over 16 KiB"));
    }
    if request.body.is_empty() {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("the body is empty; expected {expected}, sent with a Content-Length"),
        ));
    }
    // Also keeps web pages of others from asking: their forms cannot send this type.
    let type_ = request.header("content-type").unwrap_or_default();
    if !type_.split(';').next().is_some_and(|type_| type_.trim().eq_ignore_ascii_case(JSON)) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("the content type is not {JSON}; send that header with the body"),
        ));
    }
    serde_json::from_slice(&request.body)
        .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not {expected}")))
}

/// Asks for a restore or a drill.
async fn restore_now(
    service: &Service,
    request: &HttpRequest,
    cx: &Context,
) -> Result<Answer, Refusal> {
    let expected = "{\"server\": \"NAME\", \"restore\": {\"target\": \"NAME\", ...}} or \
                    {\"server\": \"NAME\", \"drill\": {}}, with the fields of docs/events.md";
    let body: RestoreNow = body_of(request, expected)?;
    let order = match (body.restore, body.drill) {
        (Some(order), None) => Order::Restore(order),
        (None, Some(order)) => Order::Drill(order),
        _ => {
            let message = format!("the body is not {expected}");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
    };
    let key = request.header("idempotency-key").unwrap_or_else(|| cx.invocation_id());
    let asked = service.restore_now(&body.server, key, order).await.map_err(refusal)?;
    let status = if asked.fate.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(HttpResponse::json(status, &asked))
}

/// What became of a restore or a drill.
async fn restore(service: &Service, request: &HttpRequest) -> Result<Answer, Refusal> {
    let what = match request.query("what") {
        Some("drill") => What::Drill,
        Some("restore") | None => What::Restore,
        Some(_) => {
            let message = "what is neither restore nor drill; write ?what=drill&request=REQUEST";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
    };
    let Some(id) = request.query("request") else {
        let message = "the request is not named; write ?request=REQUEST";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    };
    let found = service.restore_request(what, id).await.map_err(refusal)?;
    Ok(HttpResponse::json(StatusCode::OK, &found))
}

/// Which status an error of the service is, and in which words.
fn refusal(error: ServiceError) -> Refusal {
    let status = match &error {
        ServiceError::UnknownServer { .. }
        | ServiceError::UnknownTarget { .. }
        | ServiceError::NoDrill(_)
        | ServiceError::NoBackups
        | ServiceError::Vault(VaultError::NoSuchBackup { .. }) => StatusCode::NOT_FOUND,
        ServiceError::BadRequest(_)
        | ServiceError::BadRestoreRequest(_)
        | ServiceError::BadServerName(_) => StatusCode::BAD_REQUEST,
        ServiceError::Vault(VaultError::AmbiguousBackup { .. }) => StatusCode::CONFLICT,
        ServiceError::Vault(_) | ServiceError::Send { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let message = match &error {
        // The vault is well; the backup is what there is not.
        ServiceError::Vault(
            error @ (VaultError::NoSuchBackup { .. } | VaultError::AmbiguousBackup { .. }),
        ) => crate::chain(error),
        ServiceError::BadRequest(error) => {
            format!("the header Idempotency-Key cannot be used: {}", crate::chain(error))
        }
        error => crate::chain(error),
    };
    Refusal::new(status, message)
}

/// What an unknown path is answered with.
fn known_routes() -> String {
    ROUTES
        .iter()
        .map(|(method, path)| format!("{method} /api/{path}"))
        .collect::<Vec<_>>()
        .join(", ")
}
