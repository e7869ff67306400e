use flexkeep_functions::{App, BoxError, HttpResponse, RegisterError, StatusCode, TriggerKind};

use crate::host::{HTTP, TIMER, service_bus};

fn timer(name: &str, function_json: &str) -> Result<(), RegisterError> {
    App::new().timer(name, function_json, async |_, _| Ok::<_, BoxError>(())).map(drop)
}

fn message(function_json: &str) -> Result<(), RegisterError> {
    App::new().service_bus("f", function_json, async |_, _| Ok::<_, BoxError>(())).map(drop)
}

fn batch(function_json: &str) -> Result<(), RegisterError> {
    App::new().service_bus_batch("f", function_json, async |_, _| Ok::<_, BoxError>(())).map(drop)
}

fn http(function_json: &str) -> Result<(), RegisterError> {
    let api = async |_, _| Ok::<_, BoxError>(HttpResponse::empty(StatusCode::OK));
    App::new().http("f", function_json, api).map(drop)
}

#[track_caller]
fn refused(result: Result<(), RegisterError>, words: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(words), "{error}\nhas not: {words}");
}

#[test]
fn an_app_lists_its_functions_and_their_triggers() {
    let mut app = App::new();
    app.timer("tick", TIMER, async |_, _| Ok::<_, BoxError>(()))
        .unwrap()
        .service_bus("onMsg", &service_bus("msg", ""), async |_, _| Ok::<_, BoxError>(()))
        .unwrap();
    let functions: Vec<_> = app.functions().collect();
    assert_eq!(functions, [("onMsg", TriggerKind::ServiceBus), ("tick", TriggerKind::Timer)]);
    assert_eq!(TriggerKind::ServiceBusBatch.to_string(), "serviceBusTrigger (batch)");
}

#[test]
fn names_that_the_host_would_not_load_are_refused() {
    for name in ["", "1st", "_x", "a b", "a/b", "host", "Host", "ä", &"a".repeat(129)] {
        refused(timer(name, TIMER), "the host accepts no such name");
    }
    for name in ["a", "a-b_c1", &"a".repeat(128)] {
        timer(name, TIMER).unwrap();
    }
}

#[test]
fn a_name_that_is_taken_in_any_case_is_refused() {
    let mut app = App::new();
    app.timer("tick", TIMER, async |_, _| Ok::<_, BoxError>(())).unwrap();
    refused(
        app.timer("Tick", TIMER, async |_, _| Ok::<_, BoxError>(())).map(drop),
        "registered twice",
    );
}

#[test]
fn a_function_json_that_is_no_json_tells_where() {
    let error = timer("tick", "{\n  bindings: []\n}").unwrap_err();
    assert_eq!(error.to_string(), "tick/function.json can't be read");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("line 2"), "{source}");
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    timer("tick", &format!("\u{feff}{TIMER}")).unwrap();
}

#[test]
fn the_trigger_must_be_the_one_of_the_handler() {
    let error = message(TIMER).unwrap_err().to_string();
    assert_eq!(
        error,
        "f/function.json: bindings[0].type: expected \"serviceBusTrigger\", found \"timerTrigger\""
    );
    refused(timer("f", HTTP), "expected \"timerTrigger\", found \"httpTrigger\"");
    refused(http(TIMER), "expected \"httpTrigger\", found \"timerTrigger\"");
    refused(
        timer("f", r#"{"bindings":[]}"#),
        "expected a trigger of type \"timerTrigger\", found no trigger",
    );
    refused(timer("f", "{}"), "bindings: expected a list, found no such key");
    refused(timer("f", r#"{"bindings":[5]}"#), "bindings[0]: expected an object, found 5");
}

#[test]
fn two_triggers_are_refused() {
    let two = r#"{"bindings":[
        {"type":"timerTrigger","direction":"in","name":"a","schedule":"%S%"},
        {"type":"queueTrigger","direction":"in","name":"b"}]}"#;
    refused(timer("f", two), "bindings[1].type: expected exactly one trigger");
}

#[test]
fn each_key_of_a_trigger_is_checked() {
    let with = |binding: &str| format!(r#"{{"bindings":[{binding}]}}"#);
    refused(
        timer("f", &with(r#"{"type":"timerTrigger","direction":"in","name":"a"}"#)),
        "bindings[0].schedule: expected a text, found no such key",
    );
    refused(
        timer(
            "f",
            &with(r#"{"type":"timerTrigger","direction":"out","name":"a","schedule":"%S%"}"#),
        ),
        "bindings[0].direction: expected \"in\", found \"out\"",
    );
    refused(
        timer("f", &with(r#"{"type":"timerTrigger","name":"a","schedule":"%S%"}"#)),
        "bindings[0].direction: expected \"in\", found no such key",
    );
    refused(
        timer(
            "f",
            &with(r#"{"type":"timerTrigger","direction":"in","name":"$return","schedule":"%S%"}"#),
        ),
        "bindings[0].name",
    );
    refused(
        timer(
            "f",
            &with(r#"{"type":"timerTrigger","direction":"in","name":"my_timer","schedule":"%S%"}"#),
        ),
        "letters and digits, or \"$return\", found \"my_timer\"",
    );
    let binary = r#"{"type":"timerTrigger","direction":"in","name":"a","schedule":"%S%","dataType":"binary"}"#;
    refused(timer("f", &with(binary)), "bindings[0].dataType: expected no dataType");
    let nowhere = r#"{"type":"serviceBusTrigger","direction":"in","name":"a"}"#;
    refused(
        message(&with(nowhere)),
        "expected queueName, or topicName and subscriptionName, found neither",
    );
    let half = r#"{"type":"serviceBusTrigger","direction":"in","name":"a","topicName":"%T%"}"#;
    refused(message(&with(half)), "bindings[0].subscriptionName: expected a text");
    let whole = r#"{"type":"ServiceBusTrigger","direction":"In","name":"a","topicName":"%T%","subscriptionName":"s"}"#;
    message(&with(whole)).unwrap();
}

#[test]
fn data_types_are_checked() {
    for known in [r#""dataType":"string","#, r#""dataType":"BINARY","#, r#""dataType":null,"#, ""] {
        message(&service_bus("a", known)).unwrap();
    }
    refused(
        message(&service_bus("a", r#""dataType":"stream","#)),
        "bindings[0].dataType: expected \"string\", \"binary\" or no such key, found \"stream\"",
    );
}

#[test]
fn the_cardinality_must_be_the_one_of_the_handler() {
    let many = service_bus("a", r#""cardinality":"many","#);
    let one = service_bus("a", r#""cardinality":"one","#);
    batch(&many).unwrap();
    message(&one).unwrap();
    refused(message(&many), "expected \"one\", for a handler of single messages, found \"many\"");
    refused(batch(&one), "expected \"many\", for a handler of batches, found \"one\"");
    refused(batch(&service_bus("a", "")), "found no such key");
    refused(message(&service_bus("a", r#""cardinality":"two","#)), "found \"two\"");
}

#[test]
fn names_of_bindings_are_unique_in_any_case() {
    refused(
        timer("f", &TIMER.replace("\"out2\"", "\"OUT1\"")),
        "bindings[2].name: expected a name that no other binding has",
    );
}

#[test]
fn outputs_need_a_direction_and_other_inputs_are_not_supported() {
    let input =
        TIMER.replace(r#""direction":"out","name":"file""#, r#""direction":"in","name":"file""#);
    refused(timer("f", &input), "input bindings beside the trigger are not supported");
    let none = TIMER.replace(r#""direction":"out","name":"file""#, r#""name":"file""#);
    refused(timer("f", &none), "bindings[3].direction: expected \"out\"");
}

#[test]
fn an_http_function_has_one_response_and_others_have_none() {
    http(HTTP).unwrap();
    refused(
        http(&HTTP.replace("\"http\"", "\"blob\"")),
        "exactly one output of type \"http\", found 0",
    );
    refused(
        timer("f", &TIMER.replace("\"blob\"", "\"http\"")),
        "there is no request to respond to, found 1",
    );
}
