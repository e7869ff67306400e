//! Logs in the form that the Functions host makes the best of.
//!
//! The host takes each line of stdout as information, and each line of stderr as an error, or as a warning
//! if it contains "warn". So errors and warnings go to stderr and the rest to stdout, each event is one line
//! whatever it contains, and the line begins with the level:
//!
//! ```text
//! error invocation{function=backup id=5b6c…}: failed: no such server: connection refused ms=12
//! ```
//!
//! The host adds the time. It can't tell which invocation a line belongs to, so the spans are on the line;
//! lines of [`Context::log`](crate::Context::log) are kept by the host under the invocation.
//!
//! An error whose text contains "warn" is shown as a warning by the host. That can't be helped here.

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::{
    panics,
    text::{chain, cut, push_escaped},
};

/// The environment variable that overrides the directives of [`init`].
pub const FILTER_VARIABLE: &str = "RUST_LOG";

/// Logging can't be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// The directives are not understood.
    #[error("log directives {directives:?}: expected a list such as \"info,hyper=warn\"")]
    Directives {
        /// What was given.
        directives: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a subscriber already.
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process: a [`HostLayer`] on stdout and stderr, and a panic hook that makes one event
/// of a panic.
///
/// `directives` are levels by target, such as `info,hyper=warn`; the variable `RUST_LOG` overrides them.
///
/// # Errors
/// If the directives are not understood, or the process has a subscriber already.
pub fn init(directives: &str) -> Result<(), LoggingError> {
    let directives = std::env::var(FILTER_VARIABLE)
        .ok()
        .filter(|text| !text.trim().is_empty())
        .unwrap_or_else(|| directives.to_owned());
    let targets: Targets = directives
        .parse()
        .map_err(|source| LoggingError::Directives { directives: directives.clone(), source })?;
    let layer = HostLayer::new().with_filter(targets);
    tracing_subscriber::registry().with(layer).try_init().map_err(LoggingError::Twice)?;
    panics::install_hook();
    Ok(())
}

/// A layer that writes each event as one line: errors and warnings to stderr, the rest to stdout.
#[derive(Debug)]
pub struct HostLayer<W = Standard> {
    write: W,
}

/// Where [`HostLayer`] writes its lines.
pub trait WriteLine: 'static {
    /// Writes a line that ends with a newline. There is nobody to tell if it fails.
    fn write_line(&self, level: Level, line: &str);
}

/// The process's stdout and stderr.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standard;

impl WriteLine for Standard {
    fn write_line(&self, level: Level, line: &str) {
        // In one write, so that lines of other writers don't get in between.
        let _ = if level <= Level::WARN {
            io::stderr().lock().write_all(line.as_bytes())
        } else {
            io::stdout().lock().write_all(line.as_bytes())
        };
    }
}

impl<F: Fn(Level, &str) + 'static> WriteLine for F {
    fn write_line(&self, level: Level, line: &str) {
        self(level, line);
    }
}

impl HostLayer {
    /// A layer for the process's stdout and stderr.
    pub fn new() -> Self {
        Self { write: Standard }
    }
}

impl Default for HostLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: WriteLine> HostLayer<W> {
    /// A layer that writes elsewhere: also a closure of level and line.
    pub fn with_writer(write: W) -> Self {
        Self { write }
    }
}

/// The fields of a span, as they go on the line.
struct SpanFields(String);

impl<S, W> Layer<S> for HostLayer<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: WriteLine,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, cx: Context<'_, S>) {
        if let Some(span) = cx.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().replace(SpanFields(fields.text));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, cx: Context<'_, S>) {
        if let Some(span) = cx.span(id) {
            let mut fields = Fields::default();
            values.record(&mut fields);
            if let Some(SpanFields(text)) = span.extensions_mut().get_mut::<SpanFields>() {
                text.push_str(&fields.text);
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut line = String::with_capacity(160);
        line.push_str(match level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        });
        for span in cx.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            line.push(' ');
            line.push_str(span.name());
            if let Some(SpanFields(fields)) = span.extensions().get::<SpanFields>() {
                let _ = write!(line, "{{{}}}", fields.trim_start());
            }
            line.push(':');
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        if !fields.message.is_empty() {
            line.push(' ');
            line.push_str(&fields.message);
        }
        line.push_str(&fields.text);
        cut(&mut line);
        line.push('\n');
        self.write.write_line(level, &line);
    }
}

/// Collects fields: the message, and ` name=value` for each other.
#[derive(Default)]
struct Fields {
    message: String,
    text: String,
}

impl Fields {
    fn push(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            push_escaped(&mut self.message, value);
        } else {
            let _ = write!(self.text, " {}=", field.name());
            push_escaped(&mut self.text, value);
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, &chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, &format!("{value:?}"));
    }
}
