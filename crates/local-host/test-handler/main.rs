//! A custom handler for the tests of the host. Its behaviour is chosen by files in the folder that
//! the setting `CONTROL` names, so that a test can change it while the host runs:
//!
//! - `start`: what a process does before it listens (`exit 3`, `hang`, `slow 300`, `say text`).
//! - `<function>`: how a function answers, one of those in [`answer`]. Of several lines the first is
//!   taken away by the request that it answers; the last one stays.
//!
//! Each request is appended to `requests.jsonl`, each start to `starts.jsonl`.
//!
//! Called as `local-host-test-handler host <app root>` it runs a host, for tests that kill one.

use std::convert::Infallible;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flexkeep_local_host::{Host, HostOptions, Settings};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, app_root] = &arguments[..]
        && mode == "host"
    {
        return run_host(Path::new(app_root)).await;
    }
    let control = PathBuf::from(std::env::var_os("CONTROL").expect("the setting CONTROL"));
    log_start(&control);
    let start = read(&control, "start");
    for line in start.lines() {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("exit", code) => std::process::exit(code.parse().expect("an exit code")),
            ("hang", _) => std::future::pending::<()>().await,
            ("slow", ms) => sleep(ms).await,
            ("say", text) => say(text),
            ("child", _) => {
                // What a handler starts and does not wait for; it holds the handler's console open.
                let child = std::process::Command::new("sleep").arg("600").spawn();
                let pid = child.expect("the command sleep").id().to_string();
                std::fs::write(control.join("child"), pid).expect("a writable folder");
            }
            ("", _) => {}
            (other, _) => panic!("no behaviour {other:?}"),
        }
    }
    let port = std::env::var("FUNCTIONS_CUSTOMHANDLER_PORT").expect("a port");
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await;
    let listener = listener.expect("the port of the handler is free");
    let control = Arc::new(control);
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let control = control.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let control = control.clone();
                async move { Ok::<_, Infallible>(serve(&control, request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn run_host(app_root: &Path) {
    let settings = Settings::load(app_root).expect("settings");
    let mut options = HostOptions::new(app_root, settings);
    options.http_addr.set_port(0);
    let host = Host::load(options).expect("a good app");
    host.run(std::future::pending()).await.expect("a host that starts");
}

async fn serve(control: &Path, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    let path = parts.uri.path().to_owned();
    if path == "/" {
        return response(404, "text/plain", "not a function");
    }
    let headers: serde_json::Map<_, _> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    append(
        control,
        "requests.jsonl",
        &json!({
            "pid": std::process::id(),
            "method": parts.method.as_str(),
            "path": path,
            "query": parts.uri.query(),
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
        }),
    );
    let name = path.trim_start_matches('/').replace('/', "_");
    answer(&next_line(control, &name), &String::from_utf8_lossy(&body)).await
}

async fn answer(behaviour: &str, body: &str) -> Response<Full<Bytes>> {
    let (word, rest) = behaviour.split_once(' ').unwrap_or((behaviour, ""));
    match word {
        "" | "ok" => response(200, "application/json", "{}"),
        "json" => response(200, "application/json", rest),
        "status" => {
            let (status, body) = rest.split_once(' ').unwrap_or((rest, "{}"));
            response(status.parse().expect("a status"), "application/json", body)
        }
        "text" => response(200, "text/plain", "{}"),
        "empty" => response(200, "application/json", ""),
        "redirect" => {
            let (status, target) = rest.split_once(' ').expect("a status and a target");
            let mut response = response(status.parse().expect("a status"), "text/plain", "");
            response.headers_mut().insert("location", target.parse().expect("a location"));
            response
        }
        "sleep" => {
            sleep(rest).await;
            response(200, "application/json", "{}")
        }
        // Fails those whose body holds a text, at once.
        "poison" if body.contains(rest) => response(500, "text/plain", ""),
        "poison" => response(200, "application/json", "{}"),
        "exit" => std::process::exit(rest.parse().expect("an exit code")),
        "say" => {
            say(rest);
            response(200, "application/json", "{}")
        }
        "abort" => std::process::abort(),
        "echo" => response(200, "text/x-echo", body),
        other => panic!("no behaviour {other:?}"),
    }
}

fn response(status: u16, content_type: &str, body: &str) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(Full::from(body.to_owned()))
        .expect("a response")
}

async fn sleep(ms: &str) {
    tokio::time::sleep(Duration::from_millis(ms.parse().expect("milliseconds"))).await;
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn read(control: &Path, name: &str) -> String {
    std::fs::read_to_string(control.join(name)).unwrap_or_default().trim_end().to_owned()
}

/// The behaviour for one request.
fn next_line(control: &Path, name: &str) -> String {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let script = read(control, name);
    match script.split_once('\n') {
        Some((first, rest)) => {
            std::fs::write(control.join(name), rest).expect("a writable folder");
            first.to_owned()
        }
        None => script,
    }
}

fn log_start(control: &Path) {
    let environment: serde_json::Map<_, _> = std::env::vars()
        .filter(|(name, _)| name.starts_with("FUNCTIONS_") || name.starts_with("TEST_"))
        .map(|(name, value)| (name, json!(value)))
        .collect();
    append(
        control,
        "starts.jsonl",
        &json!({
            "pid": std::process::id(),
            "arguments": std::env::args().skip(1).collect::<Vec<_>>(),
            "directory": std::env::current_dir().expect("a directory"),
            "environment": environment,
            "queue": std::env::var("SB").ok(),
        }),
    );
}

fn append(control: &Path, file: &str, line: &serde_json::Value) {
    let mut text = line.to_string();
    text.push('\n');
    let file = std::fs::File::options().create(true).append(true).open(control.join(file));
    // One write of a file opened for appending is not mixed with another.
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a writable folder");
}
