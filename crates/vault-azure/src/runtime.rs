//! The runtime that the synchronous stores wait on.

use std::future::Future;
use std::sync::{Arc, mpsc};

use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

use crate::failure::Failure;

/// Two threads that move bytes. Callers wait on a channel, which works on every thread, also on
/// one of another runtime.
#[derive(Debug)]
pub(crate) struct BlobRuntime {
    runtime: Option<Runtime>,
}

impl BlobRuntime {
    pub(crate) fn start() -> std::io::Result<Arc<Self>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("blob")
            .enable_all()
            .build()?;
        Ok(Arc::new(Self { runtime: Some(runtime) }))
    }

    /// Runs `work` to its end, which comes in bounded time as all requests have limits.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, receiver) = mpsc::channel();
        self.start_task(work, move |result| drop(sender.send(result)));
        receiver.recv().unwrap_or_else(|_| Err(Failure::ended()))
    }

    /// Starts `work`; `done` gets its result, also when it panicked or was aborted.
    pub(crate) fn start_task<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
        done: impl FnOnce(Result<T, Failure>) + Send + 'static,
    ) -> Option<AbortHandle> {
        // Only drop takes it.
        let runtime = self.runtime.as_ref()?;
        let task = runtime.spawn(work);
        let abort = task.abort_handle();
        runtime.spawn(async move { done(task.await.unwrap_or_else(|_| Err(Failure::ended()))) });
        Some(abort)
    }
}

impl Drop for BlobRuntime {
    fn drop(&mut self) {
        // Dropping a runtime waits, which panics on a thread of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
