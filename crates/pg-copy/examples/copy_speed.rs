//! Dumps one table over N connections by page ranges into nothing and prints MB/s.
//!
//! `cargo run --release --example copy_speed -- "host=/tmp dbname=bench" pgbench_accounts 2`
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::convert::Infallible;
use std::error::Error;
use std::thread;
use std::time::Instant;

use flexkeep_pg_copy::{Config, ConnectOptions, Connection, CopySink, quote_literal};

/// Page ranges for each connection, so that all end at about the same time.
const RANGES: u64 = 8;

struct Count(u64);

impl CopySink for Count {
    type Error = Infallible;

    #[inline]
    fn data(&mut self, part: &[u8], _row_end: bool) -> Result<(), Infallible> {
        self.0 += part.len() as u64;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [conninfo, table, lanes] = arguments.as_slice() else {
        return Err("usage: copy_speed CONNINFO TABLE CONNECTIONS".into());
    };
    let config = Config::parse(conninfo)?;
    let lanes: u64 = lanes.parse()?;
    let mut connection = Connection::connect(&config, &ConnectOptions::default())?;
    let sql = format!("SELECT pg_relation_size({}::regclass) / 8192", quote_literal(table));
    let pages: u64 = connection.query(&sql)?[0].get(0).ok_or("no size")?.parse()?;
    connection.close();
    let step = pages.div_ceil(lanes * RANGES).max(1);
    let started = Instant::now();
    let threads: Vec<_> = (0..lanes)
        .map(|lane| {
            let (config, table) = (config.clone(), table.clone());
            thread::spawn(move || dump(&config, &table, lane, lanes, step))
        })
        .collect();
    let (mut bytes, mut rows) = (0, 0);
    for thread in threads {
        let (lane_bytes, lane_rows) = thread
            .join()
            .map_err(|_| "a thread panicked")?
            .map_err(|error| error as Box<dyn Error>)?;
        bytes += lane_bytes;
        rows += lane_rows;
    }
    let seconds = started.elapsed().as_secs_f64();
    let megabytes = bytes as f64 / 1e6;
    println!("{rows} rows, {megabytes:.1} MB, {seconds:.2} s, {:.0} MB/s", megabytes / seconds);
    Ok(())
}

fn dump(
    config: &Config,
    table: &str,
    lane: u64,
    lanes: u64,
    step: u64,
) -> Result<(u64, u64), Box<dyn Error + Send + Sync>> {
    let mut connection = Connection::connect(config, &ConnectOptions::default())?;
    let mut sink = Count(0);
    let mut rows = 0;
    let sql = |range: u64| {
        let first = (range * lanes + lane) * step;
        format!(
            "COPY (SELECT * FROM ONLY {table} WHERE ctid >= '({first},0)'::tid \
             AND ctid < '({},0)'::tid) TO STDOUT",
            first + step
        )
    };
    // One statement ahead: the server goes on without waiting for us.
    connection.send_query(sql(0))?;
    for range in 0..RANGES {
        if range + 1 < RANGES {
            connection.send_query(sql(range + 1))?;
        }
        rows += connection.read_copy_out(&mut sink)?;
    }
    Ok((sink.0, rows))
}
