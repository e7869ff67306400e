//! A function as its folder declares it, with its settings resolved.

use std::sync::Arc;

use crate::routes::RouteTemplate;
use crate::schedule::Schedule;

/// A loaded function.
#[derive(Debug)]
pub(crate) struct Function {
    /// The folder's name, which is also the path that the handler is called at.
    pub(crate) name: String,
    pub(crate) disabled: bool,
    pub(crate) trigger: Trigger,
    pub(crate) outputs: Vec<Output>,
}

/// What makes a function run. `binding` is the name of its value in an invocation.
#[derive(Debug)]
pub(crate) enum Trigger {
    Timer(TimerTrigger),
    Queue(QueueTrigger),
    Http(HttpTrigger),
}

#[derive(Debug)]
pub(crate) struct TimerTrigger {
    pub(crate) binding: String,
    /// As resolved from function.json.
    pub(crate) text: String,
    pub(crate) schedule: Schedule,
    pub(crate) use_monitor: bool,
    pub(crate) run_on_startup: bool,
}

#[derive(Debug)]
pub(crate) struct QueueTrigger {
    pub(crate) binding: String,
    pub(crate) data_type: DataType,
    pub(crate) connection: Arc<Connection>,
    pub(crate) queue: String,
    /// Cardinality many: one invocation gets many messages.
    pub(crate) batches: bool,
}

#[derive(Debug)]
pub(crate) struct HttpTrigger {
    pub(crate) binding: String,
    pub(crate) auth: AuthLevel,
    /// In upper case; empty for all.
    pub(crate) methods: Vec<String>,
    pub(crate) route: RouteTemplate,
}

/// Where a handler's outputs go.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) binding: String,
    pub(crate) data_type: DataType,
    pub(crate) target: Target,
}

#[derive(Debug)]
pub(crate) enum Target {
    Http,
    Queue { connection: Arc<Connection>, queue: String },
}

/// A queue database and the setting that names it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) setting: String,
    pub(crate) path: std::path::PathBuf,
}

/// `dataType` of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataType {
    Undefined,
    String,
    Binary,
}

/// Who may call an HTTP function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthLevel {
    /// Anyone.
    Anonymous,
    /// Whoever has a function key or the master key.
    Function,
    /// Whoever has the master key.
    Admin,
}

/// A function as [`crate::Host::describe`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FunctionInfo {
    /// The folder's name.
    pub name: String,
    /// Switched off in function.json or by a setting: it is never invoked.
    pub disabled: bool,
    /// What makes it run.
    pub trigger: TriggerInfo,
}

/// A trigger as [`crate::Host::describe`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TriggerInfo {
    /// A schedule.
    Timer {
        /// The NCRONTAB expression or time span.
        schedule: String,
    },
    /// Messages on a queue.
    Queue {
        /// The queue's name.
        queue: String,
        /// The setting that names the database.
        connection: String,
    },
    /// HTTP requests.
    Http {
        /// The path, with its prefix and without a leading slash.
        route: String,
        /// In upper case; empty for all.
        methods: Vec<String>,
        /// Who may call it.
        auth: AuthLevel,
    },
}

impl Function {
    pub(crate) fn info(&self, route_prefix: &str) -> FunctionInfo {
        let trigger = match &self.trigger {
            Trigger::Timer(timer) => TriggerInfo::Timer { schedule: timer.text.clone() },
            Trigger::Queue(queue) => TriggerInfo::Queue {
                queue: queue.queue.clone(),
                connection: queue.connection.setting.clone(),
            },
            Trigger::Http(http) => TriggerInfo::Http {
                route: match route_prefix {
                    "" => http.route.text().to_owned(),
                    prefix => format!("{prefix}/{}", http.route.text()),
                },
                methods: http.methods.clone(),
                auth: http.auth,
            },
        };
        FunctionInfo { name: self.name.clone(), disabled: self.disabled, trigger }
    }

    /// The queues that it receives from and sends to, with their databases.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (&Arc<Connection>, &str)> {
        let trigger = match &self.trigger {
            Trigger::Queue(queue) => Some((&queue.connection, queue.queue.as_str())),
            _ => None,
        };
        let outputs = self.outputs.iter().filter_map(|output| match &output.target {
            Target::Queue { connection, queue } => Some((connection, queue.as_str())),
            Target::Http => None,
        });
        trigger.into_iter().chain(outputs)
    }

    /// The http output, if there is one.
    pub(crate) fn http_output(&self) -> Option<&Output> {
        self.outputs.iter().find(|output| matches!(output.target, Target::Http))
    }

    /// Whether the host may pass the HTTP request on as it is: the only output is http.
    pub(crate) fn is_plain_http(&self) -> bool {
        matches!(self.trigger, Trigger::Http(_))
            && self.outputs.len() == 1
            && self.http_output().is_some()
    }
}
