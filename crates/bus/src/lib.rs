//! Sending work and events: the traits, and their implementations.
//!
//! [`Bus`] sends a [`Message`] to a queue, [`EventSink`] publishes a [`CloudEvent`];
//! [`BusConnection`] is the setting that says where. On Azure both go to Service Bus over AMQP:
//! [`ServiceBus`] to queues and topics, and [`TopicSink`] with events to a topic.
//!
//! On one machine both are files: [`LocalQueues`] is a queue file with the semantics of Azure
//! Service Bus queues (duplicate detection, scheduled messages, locks, delivery counts, dead
//! letters), which [`LocalBus`] sends to and a local host receives from, and [`FileSink`] is a
//! file with one event per line.

mod bus;
mod clock;
mod connection;
mod error;
mod event;
mod local;
mod message;
mod service_bus;
mod sink;

pub use bus::{Bus, LocalBus, local_queues_path, open_bus};
pub use clock::{Clock, SystemClock};
pub use connection::BusConnection;
pub use error::{BusError, BusErrorKind};
pub use event::{CloudEvent, MAX_EVENT_BYTES};
pub use local::{
    Counts, Delivery, LocalQueues, LockToken, MAX_DELIVERY_COUNT_EXCEEDED, MessageState, Peeked,
    QueueInfo, QueueOptions, Sent, Settled, TTL_EXPIRED,
};
pub use message::{MAX_MESSAGE_BYTES, MAX_MESSAGE_ID_CHARS, Message};
pub use service_bus::{ServiceBus, ServiceBusConnection, ServiceBusOptions};
pub use sink::{EventSink, FileSink, LogSink, Sinks, TopicSink};
