//! The worker: takes a message of the queue and backs a server up.

use flexkeep_functions::{BoxError, Context, Outputs, ServiceBusMessage};
use flexkeep_service::{Incoming, Service, Worked};

pub(crate) async fn run(
    service: Service,
    message: ServiceBusMessage,
    cx: Context,
) -> Result<Outputs, BoxError> {
    let incoming = Incoming {
        message_id: message.message_id.unwrap_or_else(|| cx.invocation_id().to_owned()),
        body: message.body,
        delivery_count: message.delivery_count.unwrap_or(1),
        deadline: cx.deadline(),
    };
    // Dropping the work stops the backup; the message comes again, to whoever runs then.
    let worked = tokio::select! {
        worked = service.work(incoming) => worked?,
        () = cx.stopping() => return Err("the handler is told to stop; the message comes again".into()),
    };
    cx.log(match worked {
        Worked::Completed { backup } => format!("backup {backup} is sealed"),
        Worked::PutOff { why, after } => format!("put off for {after:#}: {why}"),
        Worked::Failed { why } => format!("given up: {why}"),
    });
    Ok(Outputs::new())
}
