//! The worker: takes a message of the queue of restores, and restores a backup or holds a drill.

use flexkeep_functions::{BoxError, Context, Outputs, ServiceBusMessage};
use flexkeep_service::{Incoming, RestoreWorked, Service};

use crate::backup::pause_after;

pub(crate) async fn run(
    service: Service,
    message: ServiceBusMessage,
    cx: Context,
) -> Result<Outputs, BoxError> {
    let delivery_count = message.delivery_count.unwrap_or(1);
    let incoming = Incoming {
        message_id: message.message_id.unwrap_or_else(|| cx.invocation_id().to_owned()),
        body: message.body,
        delivery_count,
        deadline: cx.deadline(),
    };
    // Dropping the work stops the restore; the message comes again, and it goes on.
    let work = async {
        let worked = service.work_restore(incoming).await;
        if worked.is_err() {
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
        RestoreWorked::Completed { request } => format!("restore {request} is completed"),
        RestoreWorked::Passed { request } => format!("drill {request} passed"),
        RestoreWorked::PutOff { why, after } => format!("put off for {after:#}: {why}"),
        RestoreWorked::Failed { why } => format!("failed: {why}"),
    });
    Ok(Outputs::new())
}
