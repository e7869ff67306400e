//! One reading on one line.

use std::time::Duration;

use flexkeep_engine::ProgressReading;
use unicode_width::UnicodeWidthChar;

use crate::live::meter::Meter;
use crate::render::text::cell;
use crate::render::units;

/// The parts of the line, the most important first.
fn parts(reading: &ProgressReading, meter: &Meter) -> Vec<String> {
    let phase = if reading.phase.is_empty() { "starting" } else { &reading.phase };
    let mut parts = vec![cell(phase).into_owned()];
    if let Some(percent) = units::percent(reading.done_bytes, reading.total_bytes) {
        parts.push(percent);
    }
    if reading.objects_total > 0 {
        parts.push(format!("{}/{} objects", reading.objects_done, reading.objects_total));
    }
    if reading.read_bytes > 0 {
        parts.push(match meter.read_speed() {
            Some(speed) => {
                format!("{} read, {}/s", units::bytes(reading.read_bytes), units::bytes(speed))
            }
            None => format!("{} read", units::bytes(reading.read_bytes)),
        });
        parts.push(format!("{} stored", units::bytes(reading.stored_bytes)));
    }
    if let Some(left) = meter.time_left().filter(|_| reading.done_bytes < reading.total_bytes) {
        // An estimate has no tenths.
        let seconds = left.as_secs().max(1);
        parts.push(if seconds < 60 {
            format!("{seconds} s left")
        } else {
            format!("{} left", units::duration(left))
        });
    }
    parts
}

/// The line for a terminal: as many parts as fit into `width` columns.
pub(crate) fn live(reading: &ProgressReading, meter: &Meter, width: usize) -> String {
    let mut line = String::new();
    for part in parts(reading, meter) {
        let longer = if line.is_empty() { part } else { format!("{line}  {part}") };
        if columns(&longer) >= width {
            if line.is_empty() {
                line = cut(&longer, width.saturating_sub(1));
            }
            break;
        }
        line = longer;
    }
    line
}

/// The line for a log.
pub(crate) fn log(reading: &ProgressReading, meter: &Meter, elapsed: Duration) -> String {
    format!("[{}] {}", units::clock(elapsed), parts(reading, meter).join("  "))
}

fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

fn cut(text: &str, width: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= width
    };
    text.chars().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (ProgressReading, Meter) {
        let reading = ProgressReading {
            phase: "shop: tables".to_owned(),
            total_bytes: 2_000_000_000,
            done_bytes: 500_000_000,
            read_bytes: 600_000_000,
            stored_bytes: 50_000_000,
            objects_total: 12,
            objects_done: 3,
        };
        let mut meter = Meter::default();
        meter.add(Duration::ZERO, ProgressReading::default());
        meter.add(Duration::from_secs(5), reading.clone());
        (reading, meter)
    }

    #[test]
    fn the_line_tells_how_far_the_work_is() {
        let (reading, meter) = example();
        assert_eq!(
            live(&reading, &meter, 200),
            "shop: tables  25 %  3/12 objects  600 MB read, 120 MB/s  50.0 MB stored  15 s left"
        );
        let line = log(&reading, &meter, Duration::from_secs(65));
        assert!(line.starts_with("[0:01:05] shop: tables  25 %"), "{line}");
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_parts() {
        let (mut reading, meter) = example();
        assert_eq!(live(&reading, &meter, 40), "shop: tables  25 %  3/12 objects");
        assert_eq!(live(&reading, &meter, 8), "shop: t");
        reading.phase = "データベース".to_owned();
        assert_eq!(live(&reading, &meter, 8), "データ");
        assert_eq!(live(&reading, &meter, 0), "");
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        let (mut reading, meter) = example();
        reading.phase = "a\x1b[2J\nb".to_owned();
        assert!(!live(&reading, &meter, 200).contains(['\x1b', '\n']));
    }
}
