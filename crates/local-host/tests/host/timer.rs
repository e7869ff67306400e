//! Timer triggers.

use std::time::Duration;

use flexkeep_local_host::HostEvent;
use serde_json::{Value, json};

use crate::app::{App, eventually};

const NEVER: &str = "0 0 0 29 2 *";

fn is_invoked(event: &HostEvent) -> Option<()> {
    matches!(event, HostEvent::Invoked { .. }).then_some(())
}

#[tokio::test]
async fn a_timer_fires_at_full_seconds_and_gets_its_info() {
    let app = App::new().timer_function("t", "* * * * * *", json!({}));
    let mut host = app.start().await;
    for _ in 0..3 {
        assert!(host.invoked("t").await.ok);
    }
    host.stop().await;
    let began = app.envelopes();
    let began: Vec<jiff::Timestamp> = began
        .iter()
        .map(|envelope| envelope["Metadata"]["sys"]["UtcNow"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(began.windows(2).all(|pair| pair[0].as_second() < pair[1].as_second()), "{began:?}");
    let best = began.iter().map(|at| at.subsec_millisecond()).min().unwrap();
    assert!(best < 100, "{began:?}");
    let envelope = &app.envelopes()[0];
    // Under a minute there is no status.
    let info =
        json!({"Schedule": {"AdjustForDST": true}, "ScheduleStatus": null, "IsPastDue": false});
    assert_eq!(envelope["Data"]["tick"], info);
    let metadata: Vec<_> = envelope["Metadata"].as_object().unwrap().keys().collect();
    assert_eq!(metadata, ["sys"]);
    assert!(!app.root().join(".host-state/timers/t.json").exists());
}

#[tokio::test]
async fn a_run_that_takes_longer_than_the_interval_delays_the_next_one() {
    let app = App::new().timer_function("t", "* * * * * *", json!({}));
    app.behave("t", "sleep 1700");
    let mut host = app.start().await;
    for _ in 0..2 {
        assert!(host.invoked("t").await.ok);
        let status: Value =
            serde_json::from_str(&host.get("/admin/host/status").await.body).unwrap();
        assert!(status["inFlight"].as_u64().unwrap() <= 1);
    }
    host.stop().await;
}

#[tokio::test]
async fn missed_runs_are_caught_up_once_and_the_status_is_kept() {
    let app = App::new().timer_function("t", "0 0 0 * * *", json!({}));
    let status = app.root().join(".host-state/timers/t.json");
    std::fs::create_dir_all(status.parent().unwrap()).unwrap();
    let old = r#"{"Last":"2020-01-05T00:00:00.01Z","Next":"2020-01-06T00:00:00Z","LastUpdated":"2020-01-05T00:00:00.01Z"}"#;
    std::fs::write(&status, old).unwrap();
    let mut host = app.start().await;
    assert!(host.invoked("t").await.ok);
    assert!(host.within(Duration::from_millis(1500), is_invoked).await.is_none());
    host.stop().await;
    let info = &app.envelopes()[0]["Data"]["tick"];
    assert_eq!(info["IsPastDue"], json!(true));
    assert_eq!(
        info["ScheduleStatus"],
        json!({
            "Last": "2020-01-05T00:00:00.01+00:00",
            "Next": "2020-01-06T00:00:00+00:00",
            "LastUpdated": "2020-01-05T00:00:00.01+00:00",
        })
    );
    let kept: Value = serde_json::from_slice(&std::fs::read(&status).unwrap()).unwrap();
    let last: jiff::Timestamp = kept["Last"].as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(last).as_secs() < 60, "{kept}");
    let mut host = app.start().await;
    host.listeners_started().await;
    assert!(host.within(Duration::from_millis(1000), is_invoked).await.is_none(), "nothing is due");
    host.stop().await;
}

#[tokio::test]
async fn a_run_that_a_stop_cuts_short_is_caught_up_by_the_next_host() {
    let app = App::new().timer_function("t", NEVER, json!({"runOnStartup": true}));
    let status = app.root().join(".host-state/timers/t.json");
    app.behave("t", "sleep 60000");
    let mut options = app.options();
    options.shutdown_grace = Duration::from_millis(300);
    let host = app.start_with(options).await;
    eventually("the timer runs", || app.requests().len() == 1).await;
    let before = std::fs::read(&status).unwrap();
    host.stop().await;
    assert_eq!(std::fs::read(&status).unwrap(), before, "the run is not recorded");
}

#[tokio::test]
async fn run_on_startup_runs_at_once_and_a_failed_run_is_not_repeated() {
    let app = App::new().timer_function("t", NEVER, json!({"runOnStartup": true}));
    app.behave("t", "status 500");
    let mut host = app.start().await;
    assert!(!host.invoked("t").await.ok);
    assert!(host.within(Duration::from_millis(1500), is_invoked).await.is_none());
    host.stop().await;
    let info = &app.envelopes()[0]["Data"]["tick"];
    assert_eq!(info["IsPastDue"], json!(false));
    assert_eq!(info["ScheduleStatus"]["Last"], json!("0001-01-01T00:00:00+00:00"));
}

#[tokio::test]
async fn of_two_hosts_one_runs_the_timer_and_the_other_takes_over() {
    let app = App::new().timer_function("t", "* * * * * *", json!({}));
    let (mut first, mut second) = (app.start().await, app.start().await);
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let (mut of_first, mut of_second) = (0, 0);
    while first.within(Duration::from_millis(1), is_invoked).await.is_some() {
        of_first += 1;
    }
    while second.within(Duration::from_millis(1), is_invoked).await.is_some() {
        of_second += 1;
    }
    assert!(of_first == 0 || of_second == 0, "{of_first} and {of_second}");
    let (mut idle, busy) = if of_first > 0 { (second, first) } else { (first, second) };
    busy.stop().await;
    assert!(idle.invoked("t").await.ok);
    idle.stop().await;
}

#[tokio::test]
async fn a_disabled_timer_does_not_run_and_no_handler_is_started_for_it() {
    let mut app = App::new().timer_function("t", "* * * * * *", json!({}));
    app.settings.override_with([("AzureWebJobs.t.Disabled", "true")]);
    let mut host = app.start().await;
    let began = |event: &HostEvent| match event {
        HostEvent::Invoked { .. } | HostEvent::HandlerStarted { .. } => Some(()),
        _ => None,
    };
    assert!(host.within(Duration::from_millis(1500), began).await.is_none());
    host.stop().await;
}
