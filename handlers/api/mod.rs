//! HTTP: how things are, the list of backups, and "back up now". docs/api.md has it for users.

mod routes;

use flexkeep_functions::{BoxError, Context, HttpRequest, HttpResponse, StatusCode};
use flexkeep_service::{Service, ServiceError};
use flexkeep_vault::VaultError;
use serde::Deserialize;
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
    }
}

async fn back_up_now(
    service: &Service,
    request: &HttpRequest,
    cx: &Context,
) -> Result<Answer, Refusal> {
    if request.body.len() > MAX_BODY_BYTES {
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body has over 16 KiB"));
    }
    if request.body.is_empty() {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "the body is empty; expected {\"server\": \"NAME\"}, sent with a Content-Length",
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
    let body: BackUpNow = serde_json::from_slice(&request.body).map_err(|_| {
        Refusal::new(StatusCode::BAD_REQUEST, "the body is not {\"server\": \"NAME\"}")
    })?;
    // Whoever asks twice with one key gets one backup.
    let key = request.header("idempotency-key").unwrap_or_else(|| cx.invocation_id());
    let asked = service.back_up_now(&body.server, key).await.map_err(refusal)?;
    let status = if asked.known.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(HttpResponse::json(status, &asked))
}

/// Which status an error of the service is, and in which words.
fn refusal(error: ServiceError) -> Refusal {
    let status = match &error {
        ServiceError::UnknownServer { .. }
        | ServiceError::NoBackups
        | ServiceError::Vault(VaultError::NoSuchBackup { .. }) => StatusCode::NOT_FOUND,
        ServiceError::BadRequest(_) | ServiceError::BadServerName(_) => StatusCode::BAD_REQUEST,
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
