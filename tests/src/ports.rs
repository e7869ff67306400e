//! Ports for servers of tests.

use std::net::TcpListener;

/// A port on 127.0.0.1 that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let socket = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    socket.expect("a free port on 127.0.0.1").port()
}
