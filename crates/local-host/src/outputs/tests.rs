use std::sync::Arc;

use super::*;
use crate::function::{Connection, TimerTrigger, Trigger};
use crate::schedule::Schedule;

fn function(outputs: &[(&str, DataType)]) -> Function {
    let connection = Arc::new(Connection { setting: "SB".into(), path: "q.db".into() });
    let output = |(name, data_type): &(&str, DataType)| Output {
        binding: (*name).to_owned(),
        data_type: *data_type,
        target: match *name {
            "res" => Target::Http,
            _ => Target::Queue { connection: connection.clone(), queue: "q".into() },
        },
    };
    Function {
        name: "f".into(),
        disabled: false,
        trigger: Trigger::Timer(TimerTrigger {
            binding: "t".into(),
            text: "00:05:00".into(),
            schedule: Schedule::parse("00:05:00").unwrap(),
            use_monitor: true,
            run_on_startup: false,
        }),
        outputs: outputs.iter().map(output).collect(),
    }
}

fn read(function: &Function, body: &str) -> Result<Answer, AnswerError> {
    decode(function, 200, Some("application/json; charset=utf-8"), body.as_bytes())
}

/// The texts that an answer sends to the output `out`.
fn sent(data_type: DataType, outputs: &str) -> Vec<String> {
    let body = format!("{{\"Outputs\":{outputs}}}");
    let answer = read(&function(&[("out", data_type)]), &body).unwrap();
    answer.messages.into_iter().flat_map(|(_, texts)| texts).collect()
}

#[test]
fn an_empty_object_is_the_smallest_success() {
    let answer = read(&function(&[]), "{}").unwrap();
    assert_eq!(answer, Answer::default());
    assert!(decode(&function(&[]), 200, Some("text/json"), b"{}").is_ok());
    assert!(decode(&function(&[]), 202, Some("APPLICATION/JSON"), b"\xef\xbb\xbf{}").is_ok());
}

#[test]
fn answers_that_hang_the_real_host_fail_and_are_marked() {
    for (status, body) in [(200, ""), (204, ""), (204, "{}"), (200, "null"), (200, " null ")] {
        let error = decode(&function(&[]), status, Some("application/json"), body.as_bytes());
        assert!(error.unwrap_err().hangs_on_the_platform(), "{status} {body:?}");
    }
}

#[test]
fn another_content_type_or_another_shape_fails() {
    let with = |content_type| decode(&function(&[]), 200, content_type, b"{}").unwrap_err();
    assert_eq!(with(None), AnswerError::ContentType { found: "missing".into() });
    assert_eq!(with(Some("text/plain")), AnswerError::ContentType { found: "text/plain".into() });
    for body in ["{", "[]", "1", "\"x\"", "{\"Outputs\":[]}", "{\"Logs\":\"x\"}", "{\"Logs\":[{}]}"]
    {
        let error = read(&function(&[]), body).unwrap_err();
        assert!(matches!(error, AnswerError::Shape { .. }), "{body}: {error}");
        assert!(!error.hangs_on_the_platform());
    }
}

#[test]
fn top_names_have_no_case_and_unknown_ones_are_ignored() {
    let answer = read(
        &function(&[("out", DataType::Undefined)]),
        r#"{"OUTPUTS":{"out":"a b","Out":"no","other":1},"logs":["one","two"],"x":1,"returnvalue":null}"#,
    );
    let answer = answer.unwrap();
    assert_eq!(answer.logs, ["one", "two"]);
    assert_eq!(answer.messages, [(0, vec!["a b".to_owned()])]);
}

#[test]
fn names_of_outputs_are_exact_and_null_is_not_written() {
    assert_eq!(sent(DataType::Undefined, r#"{"Out":"a b"}"#), [""; 0]);
    assert_eq!(sent(DataType::Undefined, r#"{"out":null}"#), [""; 0]);
}

#[test]
fn a_text_that_happens_to_be_base64_is_sent_as_the_name_of_a_dotnet_type() {
    for text in ["test", "", "0123456789abcdef0123456789abcdef", "te st", "dGVzdA=="] {
        let outputs = format!("{{\"out\":\"{text}\"}}");
        assert_eq!(sent(DataType::Undefined, &outputs), [BYTES_AS_TEXT], "{text:?}");
        assert_eq!(sent(DataType::String, &outputs), [BYTES_AS_TEXT], "{text:?}");
        assert_eq!(sent(DataType::Binary, &outputs), [text], "{text:?}");
    }
    assert_eq!(sent(DataType::Undefined, r#"{"out":"hello"}"#), ["hello"]);
    let answer = read(&function(&[("out", DataType::Undefined)]), r#"{"Outputs":{"out":"test"}}"#);
    assert!(answer.unwrap().warnings[0].contains("valid base64"));
}

#[test]
fn arrays_fan_out_and_objects_are_written_again_indented() {
    let indented = "{\n  \"b\": 1,\n  \"a\": 2\n}";
    assert_eq!(sent(DataType::Undefined, r#"{"out":{"b":1,"a":2}}"#), [indented]);
    assert_eq!(sent(DataType::Undefined, r#"{"out":"{\"b\":1,\"a\":2}"}"#), [indented]);
    assert_eq!(
        sent(DataType::Undefined, r#"{"out":["{\"b\":1}","test",7,{"b":1,"a":2}]}"#),
        ["{\"b\":1}", "test", "7", indented]
    );
    assert_eq!(sent(DataType::Undefined, r#"{"out":"[1, \"x\"]"}"#), ["1", "x"]);
    assert_eq!(sent(DataType::Undefined, r#"{"out":[]}"#), [""; 0]);
}

#[test]
fn a_text_that_looks_like_json_and_is_not_fails() {
    let function = function(&[("out", DataType::Undefined)]);
    let error = read(&function, r#"{"Outputs":{"out":"{broken}"}}"#).unwrap_err();
    assert!(error.to_string().starts_with("output out: the text looks like JSON and is not"));
}

#[test]
fn a_return_value_feeds_return_or_is_merged_into_the_outputs() {
    let with_return = function(&[("$return", DataType::Undefined), ("out", DataType::Undefined)]);
    let answer = read(&with_return, r#"{"Outputs":{"out":"o!"},"ReturnValue":"r!"}"#).unwrap();
    assert_eq!(answer.messages, [(0, vec!["r!".into()]), (1, vec!["o!".into()])]);
    let without = function(&[("out", DataType::Undefined)]);
    let answer = read(&without, r#"{"Outputs":{"out":"o!"},"ReturnValue":{"out":"r!"}}"#).unwrap();
    assert_eq!(answer.messages, [(0, vec!["r!".into()])]);
    let answer = read(&without, r#"{"ReturnValue":"ignored"}"#).unwrap();
    assert_eq!(answer.messages, []);
}

#[test]
fn the_http_output_has_a_status_a_body_and_headers() {
    let res = |value: &str| {
        let body = format!("{{\"Outputs\":{{\"res\":{value}}}}}");
        read(&function(&[("res", DataType::Undefined)]), &body).map(|answer| answer.http)
    };
    let answer = res(r#"{"statusCode":"202","body":"ok","headers":{"x":"y","n":1}}"#).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (202, &b"ok"[..]));
    assert_eq!(answer.headers, [("x".into(), "y".into()), ("n".into(), "1".into())]);
    assert_eq!(res(r#"{"STATUSCODE":404}"#).unwrap().status, 404);
    assert_eq!(res(r#"{"status":404}"#).unwrap().status, 200);
    assert_eq!(res(r#"{"statusCode":"no"}"#).unwrap().status, 200);
    assert_eq!(res(r#"{"body":{"a":1}}"#).unwrap().body, b"{\n  \"a\": 1\n}");
    assert_eq!(res("\"{\\\"statusCode\\\":201}\"").unwrap().status, 201);
    assert_eq!(res("null").unwrap(), HttpAnswer::default());
    for bad in ["\"text\"", "[1]", "7", r#"{"headers":{"x":null}}"#, r#"{"statusCode":7}"#] {
        assert!(matches!(res(bad), Err(AnswerError::Output { .. })), "{bad}");
    }
}
