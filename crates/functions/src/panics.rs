//! Panics: one line each, and an answer for the host.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    pin::pin,
    sync::Once,
};

thread_local! {
    /// Whether this thread is polling an invocation, whose panics are reported with it.
    static POLLING: Cell<bool> = const { Cell::new(false) };
    /// The last panic of an invocation on this thread.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics one event each, in place of the standard hook's several lines.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let words = describe(info);
            if POLLING.get() {
                LAST.set(Some(words));
            } else {
                tracing::error!("{words}");
            }
        }));
    });
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
    format!("panicked{place}: {}", message(info.payload()))
}

fn message(payload: &dyn Any) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "(without a message)",
    }
}

/// Runs a future; a panic in it becomes an error that says where and why.
pub(crate) async fn catch<F: Future>(future: F) -> Result<F::Output, String> {
    struct Polling(bool);
    impl Drop for Polling {
        fn drop(&mut self) {
            POLLING.set(self.0);
        }
    }
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        let _polling = Polling(POLLING.replace(true));
        // A panic that the function itself caught is none of ours.
        LAST.set(None);
        match panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => {
                let words = LAST.take();
                std::task::Poll::Ready(Err(
                    words.unwrap_or_else(|| format!("panicked: {}", message(&*payload)))
                ))
            }
        }
    })
    .await
}
