//! COPY and queries on real servers.

mod support;

use std::convert::Infallible;
use std::thread;
use std::time::{Duration, Instant};

use flexkeep_pg_copy::{
    ConnectOptions, Connection, CopyError, CopySink, Error, TransactionStatus, quote_ident,
    quote_literal,
};
use support::{Cluster, config, server_bins};

#[derive(Default)]
struct Collect {
    bytes: Vec<u8>,
    rows: u64,
}

impl CopySink for Collect {
    type Error = Infallible;

    fn data(&mut self, part: &[u8], row_end: bool) -> Result<(), Infallible> {
        self.bytes.extend_from_slice(part);
        self.rows += u64::from(row_end);
        Ok(())
    }
}

struct Nothing;

impl CopySink for Nothing {
    type Error = Infallible;

    fn data(&mut self, _part: &[u8], _row_end: bool) -> Result<(), Infallible> {
        Ok(())
    }
}

const ENDLESS: &str = "COPY (SELECT repeat('x', 100), generate_series(1, 2000000000)) TO STDOUT";

fn each_server(test: impl Fn(&Cluster)) {
    for bin in server_bins() {
        test(&Cluster::start(&bin));
    }
}

fn connect_with(cluster: &Cluster, stall: Duration) -> Connection {
    let options = ConnectOptions { stall_timeout: stall, ..ConnectOptions::default() };
    Connection::connect(&config(&cluster.conninfo()), &options).unwrap()
}

#[test]
fn what_is_copied_in_is_copied_out_again() {
    each_server(|cluster| {
        let mut connection = cluster.connect();
        assert!(connection.server_version_num() >= 150_000);
        connection
            .execute(
                "CREATE TABLE t (id int, text text);
                 INSERT INTO t SELECT n, CASE n % 7 WHEN 0 THEN NULL WHEN 1 THEN E'tab\\tüÿ\\n\\\\'
                     ELSE repeat(md5(n::text), n % 90) END FROM generate_series(1, 50000) n;
                 CREATE TABLE u (LIKE t)",
            )
            .unwrap();
        let mut first = Collect::default();
        let rows = connection.copy_out("COPY t TO STDOUT", &mut first).unwrap();
        assert_eq!((rows, first.rows), (50_000, 50_000));
        let mut pieces = first.bytes.chunks(333_333);
        let copied = connection.copy_in("COPY u FROM STDIN", &mut |buffer| {
            let piece = pieces.next();
            buffer.extend_from_slice(piece.unwrap_or_default());
            Ok(piece.is_some())
        });
        assert_eq!(copied.unwrap(), 50_000);
        let mut second = Collect::default();
        connection.copy_out("COPY u TO STDOUT", &mut second).unwrap();
        assert!(first.bytes == second.bytes, "the copies differ");
        let mut none = Collect::default();
        assert_eq!(
            connection.copy_out("COPY (SELECT 1 WHERE false) TO STDOUT", &mut none).unwrap(),
            0
        );
    });
}

#[test]
fn copies_sent_ahead_are_answered_in_order() {
    each_server(|cluster| {
        let mut connection = connect_with(cluster, Duration::from_secs(20));
        let copy = |n: u32| {
            format!("COPY (SELECT {n}, repeat('y', 1000) FROM generate_series(1, 5000)) TO STDOUT")
        };
        for n in 0..100 {
            connection.send_query(copy(n)).unwrap();
        }
        // The server is blocked in the first answer by now, and still nothing waits for anything.
        let too_much = connection.send_query(" ".repeat(64 * 1024)).unwrap_err();
        assert!(too_much.to_string().contains("read an answer first"), "{too_much}");
        let unread = connection.query("SELECT 1").unwrap_err();
        assert!(unread.to_string().contains("100 sent queries have unread answers"), "{unread}");
        for n in 0..100 {
            let mut sink = Collect::default();
            assert_eq!(connection.read_copy_out(&mut sink).unwrap(), 5000);
            assert!(sink.bytes.starts_with(format!("{n}\ty").as_bytes()));
        }
        connection.send_query("SELECT 1").unwrap();
        connection.send_query("SELECT 1/0").unwrap();
        connection.send_query("COPY (SELECT 3) TO STDOUT").unwrap();
        connection.read_answer().unwrap();
        assert_eq!(connection.read_answer().unwrap_err().sqlstate(), Some("22012"));
        assert_eq!(connection.read_copy_out(&mut Collect::default()).unwrap(), 1);
        let nothing = connection.read_copy_out(&mut Collect::default()).unwrap_err();
        assert!(nothing.to_string().contains("no query was sent"), "{nothing}");
    });
}

#[test]
fn rows_come_as_text_and_nulls_as_none() {
    each_server(|cluster| {
        let mut connection = cluster.connect();
        let rows = connection.query("SELECT 1, NULL, 'ü', ''; SELECT 'x'").unwrap();
        let first: Vec<Option<&str>> = (0..rows[0].len()).map(|i| rows[0].get(i)).collect();
        assert_eq!(first, [Some("1"), None, Some("ü"), Some("")]);
        assert_eq!((rows[1].get(0), rows[1].get(9)), (Some("x"), None));
        let sql = format!(
            "CREATE TEMP TABLE {} (a text); SELECT {}, {}",
            quote_ident("odd \"name\""),
            quote_literal("it's \\ ü"),
            quote_literal("plain")
        );
        let rows = connection.query(&sql).unwrap();
        assert_eq!(rows[0].get(0), Some("it's \\ ü"));
        let mut seen = 0;
        let stopped = connection.for_each_row("SELECT generate_series(1, 1000)", &mut |_| {
            seen += 1;
            if seen == 10 { Err("enough".into()) } else { Ok(()) }
        });
        assert!(matches!(stopped, Err(Error::Callback(_))));
        assert_eq!(seen, 10);
        assert_eq!(connection.query("SELECT 5").unwrap()[0].get(0), Some("5"));
    });
}

#[test]
fn a_failed_statement_leaves_the_connection_usable() {
    each_server(|cluster| {
        let mut connection = cluster.connect();
        connection.execute("BEGIN; CREATE TABLE gone (a int)").unwrap();
        assert_eq!(connection.transaction_status(), TransactionStatus::Active);
        let error = connection.execute("SELECT nonsense FROM gone").unwrap_err();
        assert_eq!(error.sqlstate(), Some("42703"));
        let server = error.server().unwrap();
        assert_eq!((server.severity(), server.position()), ("ERROR", Some(8)));
        assert!(error.to_string().contains("column \"nonsense\" does not exist"));
        assert!(!error.is_transient());
        assert_eq!(connection.transaction_status(), TransactionStatus::Failed);
        connection.execute("ROLLBACK").unwrap();
        let sql = "COPY (SELECT 1 / (1000 - n) FROM generate_series(1, 2000) n) TO STDOUT";
        let error = connection.copy_out(sql, &mut Nothing).unwrap_err();
        let CopyError::Connection(error) = error;
        assert_eq!(error.sqlstate(), Some("22012"));
        for (sql, words) in [
            ("SELECT 1", "no COPY TO STDOUT"),
            ("CREATE TEMP TABLE c (a int); COPY c FROM STDIN", "use copy_in"),
        ] {
            let error = connection.copy_out(sql, &mut Nothing).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        let error = connection.execute("COPY (SELECT 1) TO STDOUT").unwrap_err();
        assert!(error.to_string().contains("use copy_out"), "{error}");
        connection.execute("DO $$BEGIN RAISE WARNING 'look'; END$$").unwrap();
        assert_eq!(connection.take_notices()[0].message(), "look");
        assert!(connection.is_usable());
    });
}

#[test]
fn a_copy_in_that_fails_ends_early_and_keeps_nothing() {
    each_server(|cluster| {
        let mut connection = connect_with(cluster, Duration::from_secs(20));
        connection.execute("CREATE TABLE n (a int CHECK (a < 10))").unwrap();
        let mut calls = 0;
        let error = connection
            .copy_in("COPY n FROM STDIN", &mut |buffer| {
                calls += 1;
                buffer.extend_from_slice(&b"77\n".repeat(10_000));
                Ok(true)
            })
            .unwrap_err();
        assert_eq!(error.sqlstate(), Some("23514"), "{error}");
        let error = connection.copy_in("COPY n FROM STDIN", &mut |buffer| {
            buffer.extend_from_slice(b"1\n");
            if calls == 0 { Ok(true) } else { Err("the source broke".into()) }
        });
        assert!(matches!(error, Err(Error::Callback(_))), "{error:?}");
        let error = connection.copy_in("SELECT 1", &mut |_| Ok(false)).unwrap_err();
        assert!(error.to_string().contains("no COPY FROM STDIN"), "{error}");
        assert_eq!(connection.query("SELECT count(*) FROM n").unwrap()[0].get(0), Some("0"));
    });
}

#[test]
fn notices_during_a_copy_in_do_not_block_it() {
    let cluster = Cluster::start(&server_bins()[0]);
    let mut connection = connect_with(&cluster, Duration::from_secs(20));
    connection
        .execute(
            "CREATE TABLE n (a int);
             CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN RAISE WARNING '%', repeat('z', 2000); RETURN NEW; END$$;
             CREATE TRIGGER t BEFORE INSERT ON n FOR EACH ROW EXECUTE FUNCTION shout()",
        )
        .unwrap();
    let mut left = 20;
    let rows = connection.copy_in("COPY n FROM STDIN", &mut |buffer| {
        buffer.extend_from_slice(&b"1\n".repeat(1000));
        left -= 1;
        Ok(left > 0)
    });
    assert_eq!(rows.unwrap(), 20_000);
    assert_eq!(connection.take_notices().len(), 100);
}

#[test]
fn a_killed_server_is_noticed_at_once() {
    each_server(|cluster| {
        let mut connection = cluster.connect();
        let pid = connection.backend_pid();
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            support::signal_process("-KILL", pid);
            Instant::now()
        });
        let error = connection.copy_out(ENDLESS, &mut Nothing).unwrap_err();
        let late = killer.join().unwrap().elapsed();
        assert!(late < Duration::from_secs(2), "{late:?}");
        let CopyError::Connection(error) = error;
        assert!(matches!(error, Error::Closed { .. }) && error.is_transient(), "{error:?}");
        assert!(!connection.is_usable());
        let again = connection.execute("SELECT 1").unwrap_err();
        assert!(matches!(again, Error::Closed { .. }), "{again:?}");
    });
}

#[test]
fn a_terminated_session_tells_why() {
    each_server(|cluster| {
        let mut connection = cluster.connect();
        let pid = connection.backend_pid();
        let mut other = cluster.connect();
        other.execute(format!("SELECT pg_terminate_backend({pid})")).unwrap();
        thread::sleep(Duration::from_millis(200));
        let error = connection.execute("SELECT 1").unwrap_err();
        assert_eq!(error.sqlstate(), Some("57P01"), "{error:?}");
        assert!(error.is_transient());
    });
}

#[test]
fn a_stopped_server_ends_in_a_time_out_that_names_how_long() {
    let cluster = Cluster::start(&server_bins()[0]);
    let mut connection = connect_with(&cluster, Duration::from_millis(1500));
    let pid = connection.backend_pid();
    let stopper = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        support::signal_process("-STOP", pid);
        Instant::now()
    });
    let error = connection.copy_out(ENDLESS, &mut Nothing).unwrap_err();
    let late = stopper.join().unwrap().elapsed();
    support::signal_process("-KILL", pid);
    assert!(late > Duration::from_millis(1200) && late < Duration::from_secs(4), "{late:?}");
    let CopyError::Connection(error) = error;
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(error.to_string().starts_with("the server was silent for 1."), "{error}");
}

#[test]
fn a_server_that_takes_nothing_ends_a_copy_in() {
    let cluster = Cluster::start(&server_bins()[0]);
    let mut connection = connect_with(&cluster, Duration::from_millis(1000));
    connection.execute("CREATE TABLE n (a text)").unwrap();
    let pid = connection.backend_pid();
    let mut calls = 0;
    let started = Instant::now();
    let error = connection
        .copy_in("COPY n FROM STDIN", &mut |buffer| {
            calls += 1;
            if calls == 5 {
                support::signal_process("-STOP", pid);
            }
            buffer.extend_from_slice(&b"abc\n".repeat(50_000));
            Ok(true)
        })
        .unwrap_err();
    support::signal_process("-KILL", pid);
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[test]
fn cancel_ends_the_statement_and_abort_the_connection() {
    each_server(|cluster| {
        let mut connection = cluster.connect();
        let handle = connection.cancel_handle();
        let canceller = {
            let handle = handle.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(300));
                handle.cancel().unwrap();
            })
        };
        let started = Instant::now();
        let error = connection.execute("SELECT pg_sleep(30)").unwrap_err();
        canceller.join().unwrap();
        assert_eq!(error.sqlstate(), Some("57014"));
        assert!(started.elapsed() < Duration::from_secs(5));
        connection.execute("SELECT 1").unwrap();

        let aborter = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            handle.abort();
        });
        let started = Instant::now();
        let error = connection.execute("SELECT pg_sleep(30)").unwrap_err();
        aborter.join().unwrap();
        assert!(matches!(error, Error::Closed { .. }), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(3));
    });
}

#[test]
fn a_sink_that_fails_ends_the_copy() {
    struct Full;
    impl CopySink for Full {
        type Error = &'static str;
        fn data(&mut self, _: &[u8], _: bool) -> Result<(), &'static str> {
            Err("full")
        }
    }
    let cluster = Cluster::start(&server_bins()[0]);
    let mut connection = cluster.connect();
    let error = connection.copy_out(ENDLESS, &mut Full).unwrap_err();
    assert!(matches!(error, CopyError::Sink("full")));
    assert!(!connection.is_usable());
}

#[test]
fn text_that_is_not_utf8_is_an_error_unless_asked_for() {
    let cluster = Cluster::start(&server_bins()[0]);
    let mut connection = cluster.connect();
    connection
        .execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
        .unwrap();
    let target = config(&cluster.conninfo()).with_database("ascii");
    let sql = "SET client_encoding = 'SQL_ASCII'; SELECT 'ok', E'\\xff'";
    let mut strict = Connection::connect(&target, &ConnectOptions::default()).unwrap();
    let error = strict.query(sql).unwrap_err();
    assert!(error.to_string().contains("column 2 of the answer is not UTF-8"), "{error}");
    let options = ConnectOptions { raw_text: true, ..ConnectOptions::default() };
    let mut raw = Connection::connect(&target, &options).unwrap();
    let rows = raw.query(sql).unwrap();
    assert_eq!((rows[0].get(0), rows[0].get(1)), (Some("ok"), None));
    assert_eq!(rows[0].get_bytes(1), Some(&b"\xff"[..]));
}
