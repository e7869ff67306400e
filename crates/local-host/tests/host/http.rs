//! HTTP triggers.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::app::App;

#[tokio::test]
async fn a_request_reaches_its_function_and_the_answer_its_client() {
    let app = App::new().http_function("f", json!({"route": "x/{id:int}", "methods": ["post"]}));
    let res = json!({"statusCode": 201, "body": {"a": 1}, "headers": {"X-Own": "yes"}});
    app.behave("f", &format!("json {}", json!({"Outputs": {"res": res}})));
    let host = app.start().await;
    let headers = [("content-type", "application/json")];
    let answer = host.call("POST", "/API/x/7?name=a", &headers, "{\"q\":1}").await;
    assert_eq!((answer.status, answer.body.as_str()), (201, "{\n  \"a\": 1\n}"));
    assert_eq!(answer.headers["x-own"], "yes");
    let envelope = &app.envelopes()[0];
    let request = &envelope["Data"]["req"];
    assert_eq!(request["Url"], json!(format!("http://{}/API/x/7?name=a", host.addr)));
    assert_eq!(request["Params"], json!({"id": "7"}));
    assert_eq!(request["Body"], json!("{\"q\":1}"));
    assert_eq!(envelope["Metadata"]["id"], json!("\"7\""));
    assert_eq!(host.call("POST", "/api/x/seven", &headers, "").await.status, 404);
    assert_eq!(host.get("/api/x/7").await.status, 404, "no route for this method");
    assert_eq!(host.get("/x/7").await.status, 404);
    assert_eq!(host.get("/").await.status, 200);
    host.stop().await;
}

#[tokio::test]
async fn an_answer_without_outputs_is_200_and_a_failure_is_500() {
    let app = App::new().http_function("f", json!({})).http_function("g", json!({}));
    app.behave("g", "status 400");
    let host = app.start().await;
    let answer = host.get("/api/f").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let answer = host.get("/api/g").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, ""));
    app.behave("g", "json {\"Outputs\":{\"res\":\"text\"}}");
    assert_eq!(host.get("/api/g").await.status, 500);
    host.stop().await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_lost_as_on_the_platform() {
    let app = App::new().http_function("f", json!({}));
    let host = app.start().await;
    let mut stream = tokio::net::TcpStream::connect(host.addr).await.unwrap();
    let request = "POST /api/f HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
                   Connection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(app.envelopes()[0]["Data"]["req"].get("Body"), None);
    host.stop().await;
}

#[tokio::test]
async fn keys_are_asked_for_if_the_host_is_told_to() {
    let app = App::new()
        .http_function("open", json!({"authLevel": "anonymous"}))
        .http_function("closed", json!({}))
        .http_function("admins", json!({"authLevel": "admin"}));
    let mut options = app.options();
    options.require_keys = true;
    let host = app.start_with(options).await;
    let keys = std::fs::read(app.root().join(".host-state/keys.json")).unwrap();
    let keys: Value = serde_json::from_slice(&keys).unwrap();
    let function = keys["functionKey"].as_str().unwrap();
    let master = keys["masterKey"].as_str().unwrap();
    assert_eq!(host.get("/api/open").await.status, 200);
    assert_eq!(host.get("/api/closed").await.status, 401);
    assert_eq!(host.get(&format!("/api/closed?code={function}")).await.status, 200);
    let with = |key| [("x-functions-key", key)];
    assert_eq!(host.call("GET", "/api/closed", &with(function), "").await.status, 200);
    assert_eq!(host.call("GET", "/api/closed", &with("wrong"), "").await.status, 401);
    assert_eq!(host.call("GET", "/api/admins", &with(function), "").await.status, 401);
    assert_eq!(host.call("GET", "/api/admins", &with(master), "").await.status, 200);
    assert_eq!(host.get("/admin/host/status").await.status, 401);
    assert_eq!(host.call("GET", "/admin/host/status", &with(master), "").await.status, 200);
    host.stop().await;
}

#[tokio::test]
async fn a_client_does_not_wait_for_ever_but_its_function_goes_on() {
    let app = App::new().http_function("f", json!({}));
    app.behave("f", "sleep 1500");
    let mut options = app.options();
    options.http_response_limit = Duration::from_millis(500);
    let mut host = app.start_with(options).await;
    host.ready().await;
    assert_eq!(host.get("/api/f").await.status, 502);
    assert!(host.invoked("f").await.ok);
    host.stop().await;
}

#[tokio::test]
async fn plain_http_functions_get_the_request_itself_if_forwarding_is_on() {
    let app = App::new()
        .host_json("customHandler.enableForwardingHttpRequest", json!(true))
        .http_function("f", json!({}));
    app.behave("api_f", "echo");
    let host = app.start().await;
    let answer = host.call("PUT", "/api/f?a=1", &[("x-own", "yes")], "the body").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "the body"));
    assert_eq!(answer.headers["content-type"], "text/x-echo");
    let request = &app.requests()[0];
    assert_eq!((&request["method"], &request["path"]), (&json!("PUT"), &json!("/api/f")));
    assert_eq!(request["query"], json!("a=1"));
    assert_eq!(request["headers"]["x-own"], json!("yes"));
    assert!(request["headers"]["x-azure-functions-invocationid"].is_string());
    app.behave("api_f", "status 418 {}");
    assert_eq!(host.get("/api/f").await.status, 418, "any status is returned as it is");
    host.stop().await;
}

#[tokio::test]
async fn the_prefix_of_routes_can_be_changed() {
    let app = App::new()
        .host_json("extensions", json!({"http": {"routePrefix": ""}}))
        .http_function("f", json!({"route": "a/{*rest}"}));
    let host = app.start().await;
    assert_eq!(host.get("/a/b/c").await.status, 200);
    assert_eq!(app.envelopes()[0]["Data"]["req"]["Params"], json!({"rest": "b/c"}));
    assert_eq!(host.get("/api/a/b").await.status, 404);
    host.stop().await;
}
