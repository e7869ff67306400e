//! Whole processes: the example, and this test program started again as a handler.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use flexkeep_functions::{App, BoxError, Context, PORT_VARIABLE, logging};

use crate::host::{PATIENCE, TIMER, fixture, invocation};

/// The example, built beside this test.
fn example() -> Command {
    let test = std::env::current_exe().unwrap();
    let folder: PathBuf = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples");
    let path = folder.join(format!("orders{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is built with the tests of this crate", path.display());
    let mut command = Command::new(path);
    command.env_remove(PORT_VARIABLE).env_remove(logging::FILTER_VARIABLE);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn finish(mut child: Child) -> Output {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("still running: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Asks as the host does, every few milliseconds until there is an answer.
fn wait_until_ready(port: u16) {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("not ready");
}

fn exchange(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // Answers of these tests are small and end with their JSON object.
    while !answer.ends_with(b"}") {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend(&buffer[..length]);
    }
    String::from_utf8(answer).unwrap()
}

fn terminate(child: &Child) {
    let status = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
}

#[test]
fn without_a_port_the_handler_says_who_sets_it_and_fails() {
    let output = finish(example().spawn().unwrap());
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.starts_with("error "), "{errors}");
    assert!(errors.contains("FUNCTIONS_CUSTOMHANDLER_PORT is not set"), "{errors}");
    assert_eq!(errors.lines().count(), 1);
}

#[test]
fn a_port_that_is_none_is_shown() {
    for value in ["", "0", "65536", "http"] {
        let output = finish(example().env(PORT_VARIABLE, value).spawn().unwrap());
        assert_eq!(output.status.code(), Some(1));
        let words = format!("FUNCTIONS_CUSTOMHANDLER_PORT is {value:?}: expected a port");
        assert!(text(&output.stderr).contains(&words), "{}", text(&output.stderr));
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = finish(example().env(PORT_VARIABLE, address.port().to_string()).spawn().unwrap());
    assert_eq!(output.status.code(), Some(1));
    let words = format!("{address} is taken by another process");
    assert!(text(&output.stderr).contains(&words), "{}", text(&output.stderr));
}

#[test]
fn the_example_serves_what_a_host_sends_and_ends_well_on_sigterm() {
    let port = free_port();
    let child = example().env(PORT_VARIABLE, port.to_string()).spawn().unwrap();
    wait_until_ready(port);
    let order = br#"{"Data":{"message":"eyJpZCI6Im8tMSIsInBpZWNlcyI6Mn0="},"Metadata":{"DeliveryCount":"1"}}"#;
    let answer = exchange(port, &invocation("order", order));
    assert!(answer.contains("order o-1 (delivery Some(1))"), "{answer}");
    let get =
        br#"{"Data":{"req":{"Url":"http://x/api/orders/o-1","Method":"GET","Query":{},"Headers":{},
        "Params":{"id":"o-1"}}},"Metadata":{}}"#;
    let answer = exchange(port, &invocation("api", get));
    assert!(answer.contains(r#""body":"{\"id\":\"o-1\",\"pieces\":2}""#), "{answer}");
    let tick = text(&fixture("timer.json")).replace("myTimer", "timer");
    let answer = exchange(port, &invocation("tick", tick.as_bytes()));
    assert!(
        answer.contains(r#"{"Outputs":{"orders":["{\"id\":\"standing\",\"pieces\":1}"]}}"#),
        "{answer}"
    );
    let answer = exchange(port, &invocation("order", br#"{"Data":{"message":"eA=="}}"#));
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    terminate(&child);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0));
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(out.lines().all(|line| line.starts_with("info ")), "{out}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.starts_with("error invocation{function=order id=5b6c"), "{errors}");
}

/// Set for the process that [`this_is_the_handler_of_the_other_tests`] is to be.
const ROLE: &str = "FLEXKEEP_FUNCTIONS_TEST_HANDLER";

/// Not a test by itself: the tests below start this program again with only this function.
#[test]
fn this_is_the_handler_of_the_other_tests() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    logging::init("info").unwrap();
    let mut app = App::new();
    app.timer("bad", TIMER, async |_, _| {
        tokio::task::yield_now().await;
        assert!(std::hint::black_box(false), "two\nlines");
        Ok::<_, BoxError>(())
    })
    .unwrap();
    app.timer("aside", TIMER, async |_, _| {
        let aside = tokio::spawn(async { panic!("aside\nof it") });
        assert!(aside.await.is_err());
        Ok::<_, BoxError>(())
    })
    .unwrap();
    app.timer("wait", TIMER, async |_, cx: Context| {
        tracing::info!("waiting");
        cx.stopping().await;
        Ok::<_, BoxError>(())
    })
    .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(app.run()).unwrap();
}

fn handler(port: u16) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::this_is_the_handler_of_the_other_tests", "--nocapture"])
        .env(ROLE, "1")
        .env(PORT_VARIABLE, port.to_string())
        .env_remove(logging::FILTER_VARIABLE)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_panic_is_one_line_on_stderr_with_its_place_and_invocation() {
    let port = free_port();
    let child = handler(port);
    wait_until_ready(port);
    let answer = exchange(port, &invocation("bad", &fixture("timer.json")));
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    let answer = exchange(port, &invocation("aside", &fixture("timer.json")));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    terminate(&child);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines: Vec<_> = text(&output.stderr).lines().collect();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].starts_with("error invocation{function=bad id=5b6c"), "{}", lines[0]);
    assert!(
        lines[0].contains("failed: panicked at ") && lines[0].contains("process.rs:"),
        "{}",
        lines[0]
    );
    assert!(lines[0].contains("two\\nlines"), "{}", lines[0]);
    assert!(
        lines[1].starts_with("error panicked at ") && lines[1].contains("aside\\nof it"),
        "{}",
        lines[1]
    );
}

#[test]
fn sigterm_lets_a_running_invocation_finish() {
    let port = free_port();
    let child = handler(port);
    wait_until_ready(port);
    let waiting =
        std::thread::spawn(move || exchange(port, &invocation("wait", &fixture("timer.json"))));
    std::thread::sleep(Duration::from_millis(300));
    terminate(&child);
    let answer = waiting.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(finish(child).status.code(), Some(0));
}
