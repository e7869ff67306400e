//! What a host refuses to start with, and how it says so.

use flexkeep_local_host::{Host, HostError};
use serde_json::json;

use crate::app::App;

fn refused(app: &App) -> String {
    Host::load(app.options()).unwrap_err().to_string()
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let app = App::new().timer_function("t", "0 0 0 1 1 *", json!({}));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = app.options();
    options.http_addr = taken.local_addr().unwrap();
    let error = Host::load(options).unwrap().run(std::future::pending()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&taken.local_addr().unwrap().to_string()), "{text}");
    assert!(matches!(error, HostError::Listen { .. }));
}

#[tokio::test]
async fn a_handler_port_that_is_taken_is_named_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let app = App::new().host_json("customHandler.port", json!(port)).timer_function(
        "t",
        "0 0 0 1 1 *",
        json!({}),
    );
    let host = Host::load(app.options()).unwrap();
    let text = host.run(std::future::pending()).await.unwrap_err().to_string();
    assert!(text.contains(&format!("customHandler.port in host.json is {port}")), "{text}");
}

#[test]
fn a_missing_host_json_a_missing_handler_and_a_missing_setting_are_named() {
    let app = App::new();
    assert!(refused(&app).starts_with("found no function in "));
    let app = app.timer_function("t", "%TICK%", json!({}));
    let text = refused(&app);
    assert!(
        text.ends_with(
            "t/function.json: bindings[0].schedule: setting TICK does not exist (in \"%TICK%\")"
        ),
        "{text}"
    );
    let mut app = app;
    app.settings.override_with([("TICK", "0 0 0 1 1 *")]);
    let app =
        app.host_json("customHandler.description", json!({"defaultExecutablePath": "bin/handler"}));
    let text = refused(&app);
    assert!(text.contains("bin/handler: does not exist"), "{text}");
    assert!(text.contains("defaultExecutablePath in host.json"), "{text}");
    std::fs::remove_file(app.root().join("host.json")).unwrap();
    assert!(refused(&app).starts_with("cannot read ") && refused(&app).ends_with("host.json"));
}

#[tokio::test]
async fn a_queue_database_that_is_something_else_is_named_with_its_setting() {
    let app = App::new().queue_function("q", json!({}), &[]);
    std::fs::write(app.root().join("queue.db"), "this is no database, but it is long enough")
        .unwrap();
    let host = Host::load(app.options()).unwrap();
    let error = host.run(std::future::pending()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("queue.db, which setting SB names"), "{text}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_loaded_host_tells_what_it_would_run() {
    let app = App::new().timer_function("t", "0 0 0 1 1 *", json!({}));
    let host = Host::load(app.options()).unwrap();
    let functions = host.describe();
    assert_eq!((functions.len(), functions[0].name.as_str()), (1, "t"));
    assert!(host.handler().ends_with("local-host-test-handler"));
}
