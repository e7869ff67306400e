//! A server that sends nonsense: no panic, no hang, no unbounded memory.

mod support;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use flexkeep_pg_copy::{ConnectOptions, Connection, CopySink, Error};
use proptest::prelude::*;

/// AuthenticationOk, two parameters, the key, ReadyForQuery.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x18server_version\x0018.0\0\
    K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";

struct Nothing;

impl CopySink for Nothing {
    type Error = Infallible;
    fn data(&mut self, _: &[u8], _: bool) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Serves one connection: after the client's first words `first`, after its next ones `then`.
fn serve(first: Vec<u8>, then: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 4096];
        for part in [first, then] {
            // The client may have given up: that is one of the right outcomes.
            if socket.read(&mut buffer).unwrap_or(0) == 0 || socket.write_all(&part).is_err() {
                return;
            }
        }
        let _ = socket.shutdown(Shutdown::Write);
    });
    port
}

fn connect(port: u16) -> Result<Connection, Error> {
    let options = ConnectOptions {
        connect_timeout: Some(Duration::from_millis(400)),
        stall_timeout: Duration::from_millis(400),
        max_row_bytes: 1 << 20,
        ..ConnectOptions::default()
    };
    let text = format!("host=127.0.0.1 port={port} user=u password=p sslmode=disable");
    Connection::connect(&support::config(&text), &options)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag][..], &length, body].concat()
}

/// Bytes that look like messages, with lengths that are mostly right.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::sample::select(b"RSKZTDCdcHGWENAvIx1\0".to_vec());
    let body = prop::collection::vec(any::<u8>(), 0..40);
    let one =
        (tags, body, prop::option::weighted(0.2, any::<u32>())).prop_map(|(tag, body, length)| {
            let mut message = message(tag, &body);
            if let Some(length) = length {
                message[1..5].copy_from_slice(&length.to_be_bytes());
            }
            message
        });
    prop::collection::vec(one, 0..12).prop_map(|messages| messages.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nonsense_at_the_start_is_an_error(bytes in messages(), cut in 0usize..200) {
        let cut = cut.min(bytes.len());
        let connected = connect(serve(bytes[..cut].to_vec(), bytes[cut..].to_vec()));
        prop_assert!(connected.is_err() || bytes.contains(&b'Z'), "it never said that it is ready");
    }

    #[test]
    fn nonsense_instead_of_an_answer_is_an_error(bytes in messages(), copy in any::<bool>()) {
        let start = if copy { message(b'H', &[0, 0, 0]) } else { Vec::new() };
        let mut connection = connect(serve(WELCOME.to_vec(), [start, bytes.clone()].concat())).unwrap();
        let is_good = if copy {
            connection.copy_out("x", &mut Nothing).is_ok()
        } else {
            connection.query("x").is_ok()
        };
        prop_assert!(!is_good || bytes.contains(&b'Z'), "the answer never came to its end");
    }

    #[test]
    fn a_good_answer_cut_short_is_never_taken_for_a_whole_one(cut in 0usize..59) {
        let answer = [
            message(b'H', &[0, 0, 1, 0, 0]),
            message(b'd', b"row one\n"),
            message(b'd', b"row two\n"),
            message(b'c', b""),
            message(b'C', b"COPY 2\0"),
            message(b'Z', b"I"),
        ]
        .concat();
        prop_assert!(cut < answer.len());
        let mut connection = connect(serve(WELCOME.to_vec(), answer[..cut].to_vec())).unwrap();
        let error = connection.copy_out("x", &mut Nothing);
        prop_assert!(error.is_err());
    }
}

#[test]
fn an_answer_to_copy_without_its_end_mark_is_an_error() {
    let answer = [
        message(b'H', &[0, 0, 1, 0, 0]),
        message(b'd', b"row one\n"),
        message(b'C', b"COPY 1\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let mut connection = connect(serve(WELCOME.to_vec(), answer)).unwrap();
    assert!(connection.copy_out("x", &mut Nothing).is_err());
}

#[test]
fn a_length_of_gigabytes_is_refused_before_it_is_believed() {
    for (tag, length) in [(b'E', 1_u32 << 30), (b'D', 1 << 30), (b'T', u32::MAX), (b'd', 3)] {
        let mut answer = vec![tag];
        answer.extend(length.to_be_bytes());
        answer.extend([0; 100]);
        let mut connection = connect(serve(WELCOME.to_vec(), answer)).unwrap();
        let error = connection.query("x").unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
        assert!(!connection.is_usable());
    }
}

#[test]
fn another_protocol_is_named_as_such() {
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec();
    let error = connect(serve(http, Vec::new())).unwrap_err();
    assert!(error.to_string().contains("does not speak PostgreSQL"), "{error}");
}

#[test]
fn an_absurd_number_of_iterations_is_refused() {
    let first = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    let then = message(b'R', b"\0\0\0\x0br=abc,s=c2FsdA==,i=4000000000");
    let started = Instant::now();
    let error = connect(serve(first, then)).unwrap_err();
    assert!(error.to_string().contains("unreasonable number of SCRAM iterations"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_server_that_trickles_does_not_outlast_the_limit_for_connecting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let notice = message(b'N', b"SNOTICE\0MHello\0\0");
        for byte in notice.iter().cycle() {
            thread::sleep(Duration::from_millis(20));
            if socket.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    let started = Instant::now();
    let error = connect(port).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(4));
}
