//! The worker: takes a message of the queue, begins the backup of a server, and is its first lane.

use std::time::Duration;

use flexkeep_functions::{BoxError, Context, Outputs, ServiceBusMessage};
use flexkeep_service::{Incoming, Service, ServiceError, Worked};

/// The longest pause after a failure.
const MAX_PAUSE: Duration = Duration::from_secs(60);

pub(crate) async fn run(
    service: Service,
    message: ServiceBusMessage,
    cx: Context,
) -> Result<Outputs, BoxError> {
    let incoming = incoming(message, &cx);
    let delivery_count = incoming.delivery_count;
    answer(service.work(incoming), delivery_count, &cx).await
}

/// The message as the service takes it.
pub(crate) fn incoming(message: ServiceBusMessage, cx: &Context) -> Incoming {
    Incoming {
        message_id: message.message_id.unwrap_or_else(|| cx.invocation_id().to_owned()),
        body: message.body,
        delivery_count: message.delivery_count.unwrap_or(1),
        deadline: cx.deadline(),
    }
}

/// Works on a message until it is answered or the handler is told to stop. Dropping the work stops
/// the backup; the message comes again, to whoever runs then.
pub(crate) async fn answer(
    work: impl Future<Output = Result<Worked, ServiceError>>,
    delivery_count: u32,
    cx: &Context,
) -> Result<Outputs, BoxError> {
    let work = async {
        let worked = work.await;
        if worked.is_err() {
            // Neither an event nor a message could be sent. A failed invocation is delivered again
            // at once, ten times in all: not within seconds.
            tokio::time::sleep(pause_after(delivery_count, cx.remaining())).await;
        }
        worked
    };
    let worked = tokio::select! {
        worked = work => worked?,
        () = cx.stopping() => {
            return Err("the handler is told to stop; the message comes again".into());
        }
    };
    cx.log(match worked {
        Worked::Completed { backup } => format!("backup {backup} is sealed"),
        Worked::HandedOver { lane } => format!("lane {lane} is handed over"),
        Worked::NotNeeded { why } => format!("nothing to do: {why}"),
        Worked::PutOff { why, after } => format!("put off for {after:#}: {why}"),
        Worked::Failed { why } => format!("given up: {why}"),
    });
    Ok(Outputs::new())
}

/// 2, 4, 8, ... seconds, up to a minute and to what the invocation has left.
pub(crate) fn pause_after(delivery_count: u32, remaining: Option<Duration>) -> Duration {
    let pause = Duration::from_secs(1 << delivery_count.min(6)).min(MAX_PAUSE);
    remaining.map_or(pause, |remaining| pause.min(remaining))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failed_delivery_waits_longer_but_never_past_the_deadline() {
        let seconds = |count| pause_after(count, None).as_secs();
        assert_eq!([1, 2, 3, 5, 6, 10].map(seconds), [2, 4, 8, 32, 60, 60]);
        let left = Duration::from_secs(3);
        assert_eq!(pause_after(9, Some(left)), left);
    }
}
