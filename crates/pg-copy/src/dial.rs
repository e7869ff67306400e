//! From a host to a connected socket.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::config::{Host, Keepalive, Place, socket_path};
use crate::error::Error;

/// More addresses than this for one name are not tried.
const MOST_ADDRESSES: usize = 16;

/// Where a socket can be connected to.
#[derive(Clone)]
pub(crate) struct Address {
    domain: Domain,
    address: SockAddr,
    /// For messages.
    pub(crate) target: String,
}

/// All addresses of a host, in the order of the resolver.
pub(crate) fn resolve(host: &Host, wait: Duration) -> Result<Vec<Address>, Error> {
    let target = host.target();
    match &host.place {
        Place::Unix(folder) => {
            let path = socket_path(folder, host.port);
            let address = SockAddr::unix(&path).map_err(|source| Error::Connect {
                target: target.clone(),
                advice: "the path of the socket is too long; use a shorter folder".into(),
                source: Some(source),
            })?;
            Ok(vec![Address { domain: Domain::UNIX, address, target }])
        }
        Place::Tcp { address: Some(address), .. } => {
            Ok(vec![tcp(SocketAddr::new(*address, host.port), target)])
        }
        Place::Tcp { name, address: None } => {
            if let Ok(address) = name.parse::<IpAddr>() {
                return Ok(vec![tcp(SocketAddr::new(address, host.port), target)]);
            }
            let found = look_up(name, host.port, wait).map_err(|source| Error::Connect {
                advice: if source.kind() == io::ErrorKind::TimedOut {
                    "the name could not be resolved in time; check DNS".into()
                } else {
                    "the name could not be resolved; check its spelling and DNS".into()
                },
                target: target.clone(),
                source: Some(source),
            })?;
            Ok(found
                .into_iter()
                .map(|found| tcp(found, format!("{target} ({})", found.ip())))
                .collect())
        }
    }
}

fn tcp(address: SocketAddr, target: String) -> Address {
    Address { domain: Domain::for_address(address), address: address.into(), target }
}

/// The system's resolver has no limit of its own that we could set, so it works on another thread; if it is
/// late, that thread is left to end by itself.
fn look_up(name: &str, port: u16, wait: Duration) -> io::Result<Vec<SocketAddr>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let question = (name.to_owned(), port);
    thread::Builder::new().name("resolve".into()).spawn(move || {
        let found = question
            .to_socket_addrs()
            .map(|found| found.take(MOST_ADDRESSES).collect::<Vec<SocketAddr>>());
        // Nobody listens any more if it took too long.
        let _ = sender.send(found);
    })?;
    let found =
        receiver.recv_timeout(wait).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found)
}

/// Connects a socket.
pub(crate) fn connect(
    address: &Address,
    keepalive: &Keepalive,
    wait: Duration,
) -> Result<Socket, Error> {
    let failed = |source: io::Error| Error::Connect {
        target: address.target.clone(),
        advice: advice(&source, address, wait),
        source: Some(source),
    };
    let unix = address.domain == Domain::UNIX;
    let protocol = (!unix).then_some(Protocol::TCP);
    let socket = Socket::new(address.domain, Type::STREAM, protocol).map_err(failed)?;
    if !unix {
        set_options(&socket, keepalive).map_err(failed)?;
    }
    let started = Instant::now();
    loop {
        let left = wait.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        match socket.connect_timeout(&address.address, left) {
            Ok(()) => return Ok(socket),
            // A Unix socket says so when its queue is full.
            Err(error)
                if unix
                    && error.kind() == io::ErrorKind::WouldBlock
                    && started.elapsed() < wait =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

fn set_options(socket: &Socket, keepalive: &Keepalive) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if keepalive.on {
        let mut settings =
            TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval);
        if let Some(count) = keepalive.count {
            settings = settings.with_retries(count);
        }
        socket.set_tcp_keepalive(&settings)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(limit) = keepalive.user_timeout {
        socket.set_tcp_user_timeout(Some(limit))?;
    }
    Ok(())
}

fn advice(error: &io::Error, address: &Address, wait: Duration) -> String {
    if let Some(path) = address.address.as_pathname() {
        return unix_advice(error, path);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "refused; check that the server runs and listens on this address and port".into()
        }
        io::ErrorKind::TimedOut => format!(
            "no answer within {} s; check the firewall rules and the network",
            wait.as_secs_f64()
        ),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no way to this address; check the network".into()
        }
        _ => "the connection failed".into(),
    }
}

fn unix_advice(error: &io::Error, path: &Path) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such socket; check that the server runs, that host= names the folder of its \
             unix_socket_directories, and the port"
                .into()
        }
        io::ErrorKind::ConnectionRefused => {
            "nobody listens on this socket; the server has ended without removing it".into()
        }
        io::ErrorKind::PermissionDenied => {
            format!("this user may not use the socket {}", path.display())
        }
        _ => "the connection failed".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::{Config, Environment};

    #[test]
    fn a_peer_that_has_gone_is_noticed_within_a_minute_by_default() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Socket::from(socket);
        let config = Config::parse_in("host=h user=u", &Environment::empty()).unwrap();
        set_options(&socket, &config.keepalive).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
    }
}
