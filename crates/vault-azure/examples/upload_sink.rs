//! How much CPU an upload takes: puts go to a process that reads requests and throws them away.
//!
//! `cargo run --release -p flexkeep-vault-azure --example upload_sink [GiB]` measures
//! objects that go in one request and objects that go in blocks, by the CPU time of this process
//! alone (user and system). `upload_gb_per_core_second` is the lower of the two. `scripts/bench.py
//! upload` runs it.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write, stdout};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{env, fs, thread};

use flexkeep_vault::store::{PutMode, SharedStore, StoreError};
use flexkeep_vault_azure::{BlobOptions, BlobPlace};

type Outcome<T> = Result<T, Box<dyn Error>>;

const LANES: usize = 2;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--sink") {
        return sink();
    }
    let gib: usize = arguments.first().map_or(Ok(4), |text| text.parse())?;
    let mut sink = Sink::start()?;
    let place = format!("http://127.0.0.1:{}/acct/box?sig=none", sink.port);
    let store = BlobPlace::parse(&place)?.open(None, &BlobOptions::default())?.data;
    let mut out = stdout();
    let mut worst: Option<f64> = None;
    for (how, length) in [("single_put", 8_usize << 20), ("blocks", 32 << 20)] {
        let (wall, cpu, bytes) = upload(&store, length, (gib << 30) / length)?;
        writeln!(out, "upload_path_{how}_gb_per_s {:.2} GB/s", bytes / wall / 1e9)?;
        let per_core = bytes / cpu / 1e9;
        writeln!(out, "upload_path_{how}_gb_per_s_per_core {per_core:.2} GB/s")?;
        worst = Some(worst.map_or(per_core, |worst: f64| worst.min(per_core)));
    }
    let worst = worst.ok_or("nothing was measured")?;
    writeln!(out, "upload_gb_per_core_second {worst:.2} GB")?;
    writeln!(out, "peak_rss {:.0} MiB", status_kib("VmHWM")? / 1024.0)?;
    // After the peak was read, as it takes memory of its own.
    checksum(&mut out)?;
    sink.child.kill()?;
    sink.child.wait()?;
    Ok(())
}

/// The checksum alone, over memory that is in no cache.
fn checksum(out: &mut impl Write) -> Outcome<()> {
    let body = vec![7_u8; 256 << 20];
    let before = cpu_seconds()?;
    let mut all = 0;
    for _ in 0..8 {
        all ^= crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &body);
    }
    let cpu = (cpu_seconds()? - before).max(0.01);
    let speed = (body.len() * 8) as f64 / cpu / 1e9;
    writeln!(out, "crc64_gb_per_s_per_core {speed:.1} GB/s ({all:x})")?;
    Ok(())
}

/// Seconds, CPU seconds and bytes of so many puts from all lanes.
fn upload(store: &SharedStore, length: usize, puts: usize) -> Outcome<(f64, f64, f64)> {
    let next = AtomicUsize::new(0);
    let body = vec![42_u8; length];
    let (started, before) = (Instant::now(), cpu_seconds()?);
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let put = next.fetch_add(1, Ordering::Relaxed);
                        if put >= puts {
                            return Ok::<(), StoreError>(());
                        }
                        store.put(&format!("chunks/{put}"), &body, PutMode::Create)?;
                    }
                })
            })
            .collect();
        for lane in lanes {
            lane.join().map_err(|_| "a lane panicked")??;
        }
        Ok::<(), Box<dyn Error>>(())
    })?;
    let cpu = cpu_seconds()? - before;
    Ok((started.elapsed().as_secs_f64(), cpu, (length * puts) as f64))
}

struct Sink {
    child: Child,
    port: u16,
}

impl Sink {
    fn start() -> Outcome<Self> {
        let mut child =
            Command::new(env::current_exe()?).arg("--sink").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("no output")?;
        BufReader::new(out).read_line(&mut line)?;
        Ok(Self { port: line.trim().parse()?, child })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Done already when all went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Answers every request with 201.
fn sink() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut out = stdout();
    writeln!(out, "{}", listener.local_addr()?.port())?;
    out.flush()?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || drop(swallow(stream)));
    }
    Ok(())
}

fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line == "\r\n" {
                break;
            }
        }
        while length > 0 {
            let want = buffer.len().min(length);
            let got = reader.read(&mut buffer[..want])?;
            if got == 0 {
                return Ok(());
            }
            length -= got;
        }
        stream.write_all(b"HTTP/1.1 201 Created\r\netag: \"1\"\r\ncontent-length: 0\r\n\r\n")?;
    }
}

/// User and system time of this process; the kernel counts in hundredths of a second.
fn cpu_seconds() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().ok_or("no stat")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

fn status_kib(name: &str) -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name)).ok_or("no such line")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
}
