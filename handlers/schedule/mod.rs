//! The timer: sends a message for each server that is due.

use flexkeep_functions::{BoxError, Context, Outputs, TimerEvent};
use flexkeep_service::Service;

pub(crate) async fn run(
    service: Service,
    event: TimerEvent,
    cx: Context,
) -> Result<Outputs, BoxError> {
    if event.is_past_due {
        cx.log("this tick is late; what was missed is caught up");
    }
    let ticked = service.tick(jiff::Timestamp::now()).await?;
    for one in &ticked.servers {
        if let Some(instant) = one.sent {
            let how = if one.catch_up { ", caught up" } else { "" };
            tracing::info!("server {}: backup of {instant} is sent{how}", one.server);
        }
        if let Some(instant) = one.overdue {
            tracing::error!("server {}: the backup of {instant} is overdue by a day", one.server);
        }
    }
    for drill in &ticked.drills {
        tracing::info!("server {}: restore drill of {} is sent", drill.server, drill.sent);
    }
    cx.log(format!("{} servers had something to do", ticked.servers.len()));
    Ok(Outputs::new())
}
