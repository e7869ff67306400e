//! A lane: takes a share of a backup that is under way, in whatever process.

use flexkeep_functions::{BoxError, Context, Outputs, ServiceBusMessage};
use flexkeep_service::Service;

use crate::backup::{answer, incoming};

pub(crate) async fn run(
    service: Service,
    message: ServiceBusMessage,
    cx: Context,
) -> Result<Outputs, BoxError> {
    let incoming = incoming(message, &cx);
    let delivery_count = incoming.delivery_count;
    answer(service.lane(incoming), delivery_count, &cx).await
}
