//! Tokens of a managed identity, from a real HTTP server that speaks the endpoint of App Service
//! (2019-08-01) and misbehaves.
//!
//! The Azure library reads the endpoint from the process's environment, so that each test asks in
//! a process of its own: this program again, with the test `child` alone.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flexkeep_azure_identity::{Limits, TokenSource, credential};

const HEADER: &str = "the-identity-header-6f1c";
const SCOPE: &str = "https://ossrdbms-aad.database.windows.net/.default";

/// What the server does with a request.
#[derive(Clone)]
enum Answer {
    /// A token that lives for so many seconds.
    Token(&'static str, i64),
    /// Another status, with a body.
    Status(u16, &'static str),
    /// 200 with this body.
    Body(&'static str),
    /// Nothing, with the connection open.
    Hang,
}

struct Endpoint {
    url: String,
    /// The first line and the headers of each request.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Endpoint {
    /// Answers in this order; the last one again and again.
    fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/msi/token", listener.local_addr().expect("bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let at = {
                    let mut seen = seen.lock().expect("no panic");
                    seen.push(read_request(&stream));
                    seen.len() - 1
                };
                let answer = answers.get(at).or(answers.last()).expect("one at least").clone();
                thread::spawn(move || give(stream, &answer));
            }
        });
        Endpoint { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

fn read_request(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

fn give(mut stream: TcpStream, answer: &Answer) {
    let (status, body) = match answer {
        Answer::Token(token, seconds) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            let expires = i64::try_from(now.as_secs()).expect("soon") + seconds;
            let body = format!(
                r#"{{"access_token":"{token}","expires_on":"{expires}","token_type":"Bearer",
                     "resource":"https://ossrdbms-aad.database.windows.net","client_id":"x"}}"#
            );
            (200, body)
        }
        Answer::Status(status, body) => (*status, (*body).to_owned()),
        Answer::Body(body) => (200, (*body).to_owned()),
        Answer::Hang => {
            thread::sleep(Duration::from_secs(30));
            return;
        }
    };
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    // The client may be gone.
    drop(stream.write_all(head.as_bytes()));
}

/// Asks for `calls` tokens in a process of its own; what it printed, and how long it took.
fn ask(endpoint: &Endpoint, calls: &str, more: &[(&str, &str)]) -> (String, Duration) {
    let began = Instant::now();
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "child", "--ignored", "--nocapture"]).env("CHILD_CALLS", calls);
    for name in ["AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"] {
        command.env_remove(name);
    }
    command.env("IDENTITY_ENDPOINT", &endpoint.url).env("IDENTITY_HEADER", HEADER);
    let Output { stdout, stderr, status } =
        command.envs(more.iter().copied()).output().expect("it runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{stdout}\n{stderr}");
    let said: Vec<&str> = stdout.lines().filter(|line| line.starts_with("SAID ")).collect();
    assert!(!said.is_empty(), "{stdout}\n{stderr}");
    assert!(!format!("{stdout}{stderr}").contains(HEADER), "{stdout}\n{stderr}");
    (said.join("\n"), began.elapsed())
}

/// `CHILD_CALLS`: `one-by-one N`, `at-once N`, or `pause N` with 1.5 s between them.
#[test]
#[ignore = "the other tests run it in a process of its own"]
#[expect(clippy::print_stdout, reason = "it is how the child answers")]
fn child() {
    let calls = std::env::var("CHILD_CALLS").expect("the other tests set it");
    let (how, count) = calls.split_once(' ').expect("how and how often");
    let count: u32 = count.parse().expect("a number");
    let limits = Limits {
        attempts: 3,
        attempt: Duration::from_secs(2),
        first_pause: Duration::from_millis(50),
    };
    let found = credential(&|name| std::env::var(name).ok()).expect("an identity");
    let source = Arc::new(TokenSource::new(found, limits).expect("a thread"));
    let call = move || match source.token(SCOPE) {
        Ok(token) => {
            assert!(!format!("{token:?}{source:?}").contains(token.secret()));
            format!("SAID token {}", token.secret())
        }
        Err(error) => format!("SAID {} {error} {error:?}", error.is_transient()),
    };
    if how == "at-once" {
        let threads: Vec<_> = (0..count).map(|_| thread::spawn(call.clone())).collect();
        for thread in threads {
            println!("\n{}", thread.join().expect("no panic"));
        }
        return;
    }
    // On a thread that may block, of another runtime, which also drops the source.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let said = runtime.expect("a runtime").block_on(async move {
        let work = move || {
            let mut all = Vec::new();
            for at in 0..count {
                if at > 0 && how_pauses() {
                    thread::sleep(Duration::from_millis(1500));
                }
                all.push(call());
            }
            all
        };
        tokio::task::spawn_blocking(work).await.expect("no panic")
    });
    for line in said {
        println!("\n{line}");
    }
}

fn how_pauses() -> bool {
    std::env::var("CHILD_CALLS").is_ok_and(|calls| calls.starts_with("pause"))
}

#[test]
fn a_token_is_asked_for_as_app_service_wants_it_and_kept() {
    let endpoint = Endpoint::start(vec![Answer::Token("first", 3600), Answer::Token("more", 3600)]);
    let (said, _) = ask(&endpoint, "one-by-one 3", &[]);
    assert_eq!(said, "SAID token first\nSAID token first\nSAID token first");
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let request = requests[0].to_ascii_lowercase();
    assert!(request.starts_with("get /msi/token?api-version=2019-08-01&resource="), "{request}");
    assert!(request.contains("ossrdbms-aad.database.windows.net"), "{request}");
    assert!(!request.contains(".default") && !request.contains("client_id"), "{request}");
    assert!(request.contains(&format!("x-identity-header: {HEADER}")), "{request}");
}

#[test]
fn a_user_assigned_identity_is_named() {
    let endpoint = Endpoint::start(vec![Answer::Token("its", 3600)]);
    let (said, _) = ask(&endpoint, "one-by-one 1", &[("AZURE_CLIENT_ID", "6a2b-client")]);
    assert_eq!(said, "SAID token its");
    assert!(endpoint.requests()[0].contains("client_id=6a2b-client"));
}

#[test]
fn threads_that_ask_at_once_share_one_request() {
    let endpoint = Endpoint::start(vec![Answer::Token("shared", 3600)]);
    let (said, _) = ask(&endpoint, "at-once 8", &[]);
    assert_eq!(said, ["SAID token shared"; 8].join("\n"));
    assert_eq!(endpoint.requests().len(), 1);
}

#[test]
fn a_token_near_its_end_is_replaced_and_used_only_while_it_must() {
    let short = |token| Answer::Token(token, 120);
    let endpoint =
        Endpoint::start(vec![short("token-a"), short("token-b"), Answer::Status(500, "{}")]);
    let (said, _) = ask(&endpoint, "one-by-one 3", &[]);
    assert_eq!(said, "SAID token token-a\nSAID token token-b\nSAID token token-b");
    // One that is about to end is not given out again.
    let endpoint = Endpoint::start(vec![Answer::Token("token-a", 20), Answer::Status(500, "{}")]);
    let (said, _) = ask(&endpoint, "one-by-one 2", &[]);
    assert!(
        said.starts_with("SAID token token-a\nSAID true no token for https://ossrdbms"),
        "{said}"
    );
}

#[test]
fn passing_failures_are_tried_again_and_lasting_ones_are_not() {
    let well = Answer::Token("well", 3600);
    let busy = Answer::Status(429, r#"{"error":"throttled"}"#);
    let endpoint = Endpoint::start(vec![busy, Answer::Status(500, "oops"), well]);
    assert_eq!(ask(&endpoint, "one-by-one 1", &[]).0, "SAID token well");
    assert_eq!(endpoint.requests().len(), 3);

    let endpoint = Endpoint::start(vec![Answer::Status(503, "out of order")]);
    let (said, _) = ask(&endpoint, "one-by-one 1", &[]);
    assert!(said.contains("SAID true") && said.contains("(attempts: 3)"), "{said}");
    assert!(said.contains("out of order"), "{said}");

    let endpoint = Endpoint::start(vec![Answer::Status(400, r#"{"message":"no identity"}"#)]);
    let (said, _) = ask(&endpoint, "one-by-one 1", &[]);
    assert!(said.contains("SAID false") && said.contains("(attempts: 1)"), "{said}");
    assert!(said.contains("turn its system-assigned one on"), "{said}");
    assert_eq!(endpoint.requests().len(), 1);
}

#[test]
fn a_server_that_hangs_is_left_in_time_by_all_who_wait() {
    let endpoint = Endpoint::start(vec![Answer::Hang]);
    let (said, took) = ask(&endpoint, "at-once 4", &[]);
    assert_eq!(said.matches("SAID true").count(), 4, "{said}");
    assert!(said.contains("no answer in 2 s"), "{said}");
    // Three attempts of 2 s, and not four times that.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(endpoint.requests().len(), 3);
}

#[test]
fn wrong_answers_are_errors_that_do_not_show_them() {
    let secret = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsIng1dCI6Ik1HTHFqOThWTkxvWGFGZnBKQ0JwZ0I0";
    for body in [
        "",
        "<html>busy</html>",
        r#"{"token_type":"Bearer"}"#,
        r#"{"access_token":["eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsIng1dCI6Ik1HTHFqOThWTkxvWGFGZnBKQ0JwZ0I0"],"expires_on":"1","token_type":"","resource":""}"#,
        r#"{"access_token":"eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsIng1dCI6Ik1HTHFqOThWTkxvWGFGZnBKQ0JwZ0I0","expires_on":"eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsIng1dCI6Ik1HTHFqOThWTkxvWGFGZnBKQ0JwZ0I0","token_type":"","resource":""}"#,
        r#"{"access_token":"x","expires_on":"1","token_type":"","resource":""}"#,
        r#"{"access_token":"","expires_on":"99999999999","token_type":"","resource":""}"#,
    ] {
        let endpoint = Endpoint::start(vec![Answer::Body(body)]);
        let (said, _) = ask(&endpoint, "one-by-one 1", &[]);
        assert!(said.starts_with("SAID false no token for"), "{body}: {said}");
        assert!(!said.contains(secret), "{said}");
        assert_eq!(endpoint.requests().len(), 1, "{body}");
    }
    // An endpoint that repeats what it was sent.
    let endpoint = Endpoint::start(vec![Answer::Status(401, "got the-identity-header-6f1c")]);
    let (said, _) = ask(&endpoint, "one-by-one 1", &[]);
    assert!(said.contains("got (hidden)"), "{said}");
}

#[test]
fn nobody_at_the_endpoint_is_a_passing_failure() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let url = format!("http://{}/", free.expect("a free port"));
    let endpoint = Endpoint { url, requests: Arc::default() };
    let (said, _) = ask(&endpoint, "one-by-one 1", &[]);
    assert!(said.contains("SAID true") && said.contains("(attempts: 3)"), "{said}");
}
