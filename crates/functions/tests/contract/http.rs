use flexkeep_functions::{App, BoxError, HttpRequest, HttpResponse, Method, Outputs, StatusCode};
use serde_json::{Value, json};

use crate::host::{HTTP, Host, Reply, Seen};

async fn send(name: &str) -> (Reply, Vec<HttpRequest>) {
    let seen = Seen::new();
    let mut app = App::new();
    let put = seen.clone();
    app.http("api", HTTP, move |request, _| {
        put.put(request);
        async { Ok::<_, BoxError>(HttpResponse::empty(StatusCode::OK)) }
    })
    .unwrap();
    let reply = Host::start(app).await.invoke_fixture("api", name).await;
    (reply, seen.take())
}

async fn receive(name: &str) -> HttpRequest {
    let (reply, mut requests) = send(name).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    requests.remove(0)
}

#[tokio::test]
async fn a_json_request_has_its_text_its_headers_and_its_route() {
    let request = receive("http_json.json").await;
    assert_eq!(request.method, Method::POST);
    assert_eq!(request.url, "http://localhost:7071/api/x/7?name=a");
    assert_eq!(request.json::<Value>().unwrap(), json!({"a": 1}));
    assert_eq!(request.text().unwrap(), r#"{"a":1}"#);
    assert_eq!(request.header("CONTENT-TYPE"), Some("application/json; charset=utf-8"));
    let two: Vec<_> = request.headers.get_all("x-two").iter().collect();
    assert_eq!(two, ["1", "2"]);
    assert_eq!((request.param("id"), request.param("other")), (Some("7"), None));
    assert_eq!(request.query("name"), Some("a"));
}

#[tokio::test]
async fn octet_streams_and_multipart_bodies_come_as_their_bytes() {
    assert_eq!(receive("http_octet_stream.json").await.body, (0..=255).collect::<Vec<u8>>());
    assert_eq!(receive("http_multipart.json").await.body, b"--b\r\n\r\n\xff\r\n--b--");
}

#[tokio::test]
async fn a_text_that_looks_like_base64_stays_as_it_is() {
    let request = receive("http_text_that_looks_like_base64.json").await;
    assert_eq!(request.text().unwrap(), "dGVzdA==");
}

#[tokio::test]
async fn a_request_without_a_body_has_an_empty_one() {
    let request = receive("http_without_body.json").await;
    assert_eq!(request.method, Method::GET);
    assert!(request.body.is_empty());
}

#[tokio::test]
async fn repeated_parameters_of_the_query_are_apart_and_decoded() {
    let request = receive("http_repeated_query.json").await;
    assert_eq!(request.query_all("tag").collect::<Vec<_>>(), ["a,b", "c d"]);
    assert_eq!((request.query("empty"), request.query("name")), (Some(""), Some("é")));
    assert_eq!(request.query("none"), None);
    assert_eq!(request.param("id"), None);
}

#[tokio::test]
async fn where_the_url_and_the_hosts_own_query_disagree_the_hosts_counts() {
    let request = receive("http_url_not_encoded.json").await;
    assert_eq!(request.query, [("q".to_owned(), "a&b=1".to_owned())]);
}

#[tokio::test]
async fn a_query_that_an_older_host_wrote_as_text_is_read() {
    let request = receive("http_query_as_text.json").await;
    assert!(request.query.is_empty() && request.params.is_empty());
}

#[tokio::test]
async fn a_binary_body_that_is_not_base64_is_refused() {
    let (reply, calls) = send("http_octet_stream_not_base64.json").await;
    assert_eq!(reply.status, 400);
    assert!(reply.error().contains("Data.req.Body: expected base64"), "{}", reply.error());
    assert!(calls.is_empty());
}

async fn respond(response: HttpResponse) -> Reply {
    let mut app = App::new();
    app.http("api", HTTP, move |_, _| {
        let response = response.clone();
        async { Ok::<_, BoxError>(response) }
    })
    .unwrap();
    Host::start(app).await.invoke_fixture("api", "http_without_body.json").await
}

#[tokio::test]
async fn a_response_has_its_status_as_text_and_always_a_content_type() {
    let reply = respond(HttpResponse::text(StatusCode::ACCEPTED, "test")).await;
    assert_eq!(
        reply.json(),
        json!({"Outputs": {"res": {"statusCode": "202", "body": "test",
            "headers": {"content-type": "text/plain; charset=utf-8"}}}})
    );
    let reply = respond(HttpResponse::empty(StatusCode::NO_CONTENT)).await;
    assert_eq!(
        reply.json(),
        json!({"Outputs": {"res": {"statusCode": "204",
            "headers": {"content-type": "text/plain; charset=utf-8"}}}})
    );
}

#[tokio::test]
async fn a_json_response_is_text_so_that_the_host_does_not_write_it_again() {
    let response =
        HttpResponse::json(StatusCode::OK, &json!({"at": "2026-11-22T11:50:35Z"})).unwrap();
    let reply = respond(response.header("X-One", "1").header("x-one", "2")).await;
    assert_eq!(
        reply.json()["Outputs"]["res"],
        json!({"statusCode": "200", "body": "{\"at\":\"2026-11-22T11:50:35Z\"}",
            "headers": {"content-type": "application/json", "x-one": "2"}})
    );
}

#[tokio::test]
async fn a_response_can_come_with_messages() {
    let outputs = Outputs::new().message("out1", "test");
    let reply = respond(HttpResponse::empty(StatusCode::OK).outputs(outputs)).await;
    assert_eq!(reply.json()["Outputs"]["out1"], json!(["test"]));
    assert_eq!(reply.json()["Outputs"]["res"]["statusCode"], "200");
}

#[tokio::test]
async fn a_response_that_would_not_arrive_as_it_is_fails() {
    let empty = || HttpResponse::empty(StatusCode::OK);
    for (response, words) in [
        (HttpResponse::text(StatusCode::OK, "2026-11-22T11:50:35Z"), "is a date"),
        (empty().header("x-at", "2026-11-22T11:50:35Z"), "is a date"),
        (empty().header("x y", "1"), "no name for a header"),
        (empty().header("x", "a\r\nb: c"), "visible ASCII"),
        (empty().header("x", "é"), "visible ASCII"),
        (empty().header("Content-Length", "1"), "sets this header itself"),
        (HttpResponse::text(StatusCode::NO_CONTENT, "x"), "has no body"),
        (HttpResponse::empty(StatusCode::CONTINUE), "below 200"),
        (empty().outputs(Outputs::new().value("res", "x y")), "return an HttpResponse"),
    ] {
        let reply = respond(response).await;
        assert_eq!(reply.status, 500);
        assert!(reply.error().contains(words), "{words}: {}", reply.error());
    }
}

#[tokio::test]
async fn a_response_bound_to_the_return_value_goes_there() {
    let function_json = HTTP.replace("\"res\"", "\"$return\"");
    let mut app = App::new();
    app.http("api", &function_json, async |_, _| {
        Ok::<_, BoxError>(HttpResponse::text(StatusCode::OK, "hello"))
    })
    .unwrap();
    let reply = Host::start(app).await.invoke_fixture("api", "http_json.json").await;
    assert_eq!(reply.json()["ReturnValue"]["body"], "hello");
    assert_eq!(reply.json().get("Outputs"), None);
}
