//! The kit that tests on real servers are made of.
//!
//! [`Server`] is a PostgreSQL server of the test's own: started by the test, gone when it is
//! dropped, and also when the test is killed. [`compare_databases`] and [`compare_roles`] say
//! what differs between an original and its restored copy. [`run`] gives every command a time
//! limit. The servers' programs come from `scripts/setup.sh`.
//!
//! Everything here panics with the whole story when something fails: that is the test's failure.

mod amqp_peer;
mod app;
mod azurite;
mod bare_handler;
mod compare;
mod dump;
mod fault_proxy;
mod fixtures;
mod lookalike;
mod options;
mod ports;
mod processes;
mod programs;
mod regression;
mod rounds;
mod run;
mod server;
mod standby;
mod template;
mod vaulted;

pub use amqp_peer::AmqpPeer;
pub use app::{TestApp, wait_for};
pub use azurite::{Azurite, Rights};
pub use bare_handler::BareHandler;
pub use compare::{compare_databases, compare_properties, compare_roles};
pub use dump::{dump_archive, normalise, restore_archive, schema_text};
pub use fault_proxy::{FaultProxy, HttpFault, Requests};
pub use fixtures::{SAMPLE_DATABASES, fixture, load_everything, load_what_it_knows};
pub use lookalike::{ADMIN, DUMP_USER, LOOKALIKE_HOST, Lookalike, LookalikeOptions};
pub use options::ServerOptions;
pub use processes::kill;
pub use programs::{Version, flexkeep, handler, pg_command, pg_tool};
pub use regression::{load_regression, regression_version};
pub use rounds::rounds;
pub use run::{Output, run, run_with_input};
pub use server::Server;
pub use vaulted::{Running, TestVault, flexkeep_command, flip, json, writable};
