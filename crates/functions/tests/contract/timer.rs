use flexkeep_functions::{App, BoxError, Outputs, TimerEvent};

use crate::host::{Host, Seen, TIMER};

async fn fired(name: &str) -> TimerEvent {
    let seen = Seen::new();
    let mut app = App::new();
    let put = seen.clone();
    app.timer("tick", TIMER, move |event, _| {
        put.put(event);
        async { Ok::<_, BoxError>(Outputs::new()) }
    })
    .unwrap();
    let reply = Host::start(app).await.invoke_fixture("tick", name).await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"{}"[..]));
    seen.only()
}

#[tokio::test]
async fn a_timer_tells_its_last_and_current_occurrence_and_whether_it_is_late() {
    let event = fired("timer.json").await;
    assert!(event.is_past_due);
    let status = event.schedule_status.unwrap();
    assert_eq!(status.last, Some("2026-11-22T11:45:00.0050123Z".parse().unwrap()));
    assert_eq!(status.next, Some("2026-11-22T11:50:00Z".parse().unwrap()));
    assert_eq!(status.last_updated, Some("2026-11-22T11:45:00.0050123Z".parse().unwrap()));
}

#[tokio::test]
async fn the_first_run_ever_has_no_last_run() {
    let event = fired("timer_first_ever_run.json").await;
    let status = event.schedule_status.unwrap();
    assert_eq!((status.last, status.last_updated), (None, None));
    assert!(status.next.is_some());
}

#[tokio::test]
async fn a_timer_that_is_not_monitored_has_no_status() {
    let event = fired("timer_without_status.json").await;
    assert_eq!(event.schedule_status, None);
    assert!(!event.is_past_due);
}

#[tokio::test]
async fn what_is_not_the_object_of_a_timer_is_refused_with_its_place() {
    let mut app = App::new();
    app.timer("tick", TIMER, async |_, _| Ok::<_, BoxError>(())).unwrap();
    let host = Host::start(app).await;
    for (data, place) in [
        ("5", "Data.myTimer"),
        ("[null,true]", "Data.myTimer: expected the object"),
        (r#"{"IsPastDue":"no"}"#, "Data.myTimer"),
        (r#"{"ScheduleStatus":{"Last":"soon"}}"#, "Data.myTimer.ScheduleStatus.Last"),
    ] {
        let reply =
            host.invoke("tick", format!(r#"{{"Data":{{"myTimer":{data}}}}}"#).as_bytes()).await;
        assert_eq!(reply.status, 400);
        assert!(reply.error().contains(place), "{}", reply.error());
    }
}
