use flexkeep_functions::logging;
use tracing::Level;

use crate::host::capture_logs;

#[test]
fn each_event_is_one_line_that_begins_with_its_level() {
    let (logs, _guard) = capture_logs();
    let span = tracing::info_span!("run", server = "a\nb", later = tracing::field::Empty);
    span.record("later", 5);
    span.in_scope(|| {
        tracing::warn!(count = 3, path = ?"c:\\", "first\r\nsecond\u{1b}[0m");
    });
    tracing::info!("plain");
    let error = std::io::Error::other("the\ncause");
    tracing::error!(error = &error as &(dyn std::error::Error + 'static));
    tracing::debug!(n = 1);
    let lines = logs.take();
    let expected = [
        (
            Level::WARN,
            "warn run{server=a\\nb later=5}: first\\r\\nsecond\\u{1b}[0m count=3 path=\"c:\\\\\"\n",
        ),
        (Level::INFO, "info plain\n"),
        (Level::ERROR, "error error=the\\ncause\n"),
        (Level::DEBUG, "debug n=1\n"),
    ];
    let lines: Vec<_> = lines.iter().map(|(level, line)| (*level, line.as_str())).collect();
    assert_eq!(lines, expected);
}

#[test]
fn a_line_of_any_length_is_cut() {
    let (logs, _guard) = capture_logs();
    tracing::info!("{}", "x".repeat(1_000_000));
    let (_, line) = logs.only();
    assert!(line.len() < 31 * 1024, "{}", line.len());
    assert!(line.ends_with("more bytes)\n"));
}

#[test]
fn directives_that_are_not_understood_are_an_error_that_shows_them() {
    let error = logging::init("info,=x=y").unwrap_err().to_string();
    assert!(error.contains("info,=x=y"), "{error}");
}
