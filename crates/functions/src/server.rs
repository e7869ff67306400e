//! Listening, and stopping.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::Ordering,
};

use axum::serve::ListenerExt as _;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    app::{App, router},
    error::ServeError,
};

impl App {
    /// Serves where the host expects it: on 127.0.0.1, on the port that the environment names.
    ///
    /// Returns after SIGTERM or SIGINT, when the running invocations have finished. The Functions host sends
    /// neither: it kills.
    ///
    /// # Errors
    /// If the port is not named, no port, or taken; if invocations were still running at the limit.
    pub async fn run(self) -> Result<(), ServeError> {
        let port = match std::env::var(crate::PORT_VARIABLE) {
            Ok(value) => port(&value)?,
            Err(std::env::VarError::NotPresent) => return Err(ServeError::PortMissing),
            Err(std::env::VarError::NotUnicode(value)) => {
                return Err(ServeError::PortInvalid {
                    value: value.to_string_lossy().into_owned(),
                });
            }
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(address).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServeError::Taken { address, source },
            _ => ServeError::Bind { address, source },
        })?;
        self.serve(listener).await
    }

    /// Serves on a listener, until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// If signals can't be watched, the listener fails, or invocations were still running at the limit.
    pub async fn serve(self, listener: TcpListener) -> Result<(), ServeError> {
        let signal = signal().map_err(ServeError::Signals)?;
        self.serve_until(listener, signal).await
    }

    /// Serves on a listener until a future is ready; then accepts no more and lets running invocations finish
    /// for at most [`shutdown_limit`](App::shutdown_limit).
    ///
    /// # Errors
    /// If the listener fails, or invocations were still running at the limit.
    pub async fn serve_until(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let limit = self.settings.shutdown_limit;
        let (tell, stopping) = watch::channel(false);
        let shared = self.into_shared(stopping.clone());
        // Small answers must not wait for the host's acknowledgement of the one before.
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "can't set TCP_NODELAY");
            }
        });
        let mut told = stopping;
        let graceful = async move {
            let _ = told.wait_for(|stopping| *stopping).await;
        };
        let serve = axum::serve(listener, router(shared.clone())).with_graceful_shutdown(graceful);
        let mut serve = std::pin::pin!(serve.into_future());
        tokio::select! {
            result = &mut serve => return result.map_err(ServeError::Serve),
            () = stop => {}
        }
        let running = shared.running.load(Ordering::Relaxed);
        tracing::info!(running, "stopping");
        tell.send_replace(true);
        match tokio::time::timeout(limit, serve).await {
            Ok(result) => result.map_err(ServeError::Serve),
            Err(_) => match shared.running.load(Ordering::Relaxed) {
                // A connection without an invocation is nothing to wait for.
                0 => Ok(()),
                running => Err(ServeError::ShutdownLimit { running, limit }),
            },
        }
    }
}

fn port(value: &str) -> Result<u16, ServeError> {
    match value.trim().parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(ServeError::PortInvalid { value: value.into() }),
    }
}

#[cfg(unix)]
fn signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
