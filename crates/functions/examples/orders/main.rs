//! A small shop: orders come over HTTP or from a timer, and are worked on from a queue.
//!
//! This folder is a function app. With the program built as `orders` beside host.json, `func start` runs it.
//! Without a host, set FUNCTIONS_CUSTOMHANDLER_PORT and send it what a host would: see tests/fixtures.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use flexkeep_functions::{
    App, BoxError, Context, HttpRequest, HttpResponse, Method, Outputs, RegisterError,
    ServiceBusMessage, StatusCode, TimerEvent, host_json_timeout, logging,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    id: String,
    pieces: u32,
}

/// What the functions share: clients and pools in a real app.
#[derive(Clone, Default)]
struct Shop {
    orders: Arc<Mutex<BTreeMap<String, Order>>>,
}

impl Shop {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<String, Order>) -> T) -> T {
        work(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A standing order at each tick.
async fn tick(event: TimerEvent, _: Context) -> Result<Outputs, BoxError> {
    let last = event.schedule_status.and_then(|status| status.last);
    tracing::info!(late = event.is_past_due, last = last.map(tracing::field::display), "ordering");
    Ok(Outputs::new().json("orders", &Order { id: "standing".into(), pieces: 1 })?)
}

/// Works on an order.
async fn order(shop: Shop, message: ServiceBusMessage, cx: Context) -> Result<(), BoxError> {
    let order: Order = message.json()?;
    cx.log(format!("order {} (delivery {:?})", order.id, message.delivery_count));
    shop.with(|orders| orders.insert(order.id.clone(), order));
    Ok(())
}

/// Counts messages in batches.
async fn audit(messages: Vec<ServiceBusMessage>, _: Context) -> Result<(), BoxError> {
    tracing::info!(count = messages.len(), "audited");
    Ok(())
}

/// `GET orders/{id}` shows an order, `POST orders` takes one.
async fn api(shop: Shop, request: HttpRequest, _: Context) -> Result<HttpResponse, BoxError> {
    if request.method == Method::POST {
        let Ok(order) = request.json::<Order>() else {
            let words = "expected {\"id\":text,\"pieces\":number}";
            return Ok(HttpResponse::text(StatusCode::BAD_REQUEST, words));
        };
        let outputs = Outputs::new().json("orders", &order)?;
        return Ok(HttpResponse::json(StatusCode::ACCEPTED, &order)?.outputs(outputs));
    }
    let id = request.param("id").unwrap_or_default();
    match shop.with(|orders| orders.get(id).cloned()) {
        Some(order) => Ok(HttpResponse::json(StatusCode::OK, &order)?),
        None => Ok(HttpResponse::text(StatusCode::NOT_FOUND, format!("no order {id:?}"))),
    }
}

fn app() -> Result<App, RegisterError> {
    let shop = Shop::default();
    let mut app = App::new();
    app.timer("tick", include_str!("tick/function.json"), tick)?;
    let state = shop.clone();
    app.service_bus("order", include_str!("order/function.json"), move |message, cx| {
        order(state.clone(), message, cx)
    })?;
    app.service_bus_batch("audit", include_str!("audit/function.json"), audit)?;
    app.http("api", include_str!("api/function.json"), move |request, cx| {
        api(shop.clone(), request, cx)
    })?;
    Ok(app)
}

// One thread is enough for a handler that waits more than it computes.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    logging::init("info")?;
    let mut app = app()?;
    app.function_timeout(host_json_timeout(include_str!("host.json"))?);
    if let Err(error) = app.run().await {
        tracing::error!(error = &error as &dyn std::error::Error, "can't run");
        std::process::exit(1);
    }
    Ok(())
}
