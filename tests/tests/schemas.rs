//! The JSON schemas of docs/, held against the examples of the documentation and against what must be
//! refused; that of the lanes' queue, whose messages only the program writes, against the program.

use flexkeep_engine::Lane;
use flexkeep_service::{BackupMessage, LaneMessage};
use flexkeep_vault::{RunId, ServerName};
use jiff::Timestamp;
use serde_json::{Value, json};

fn schema(text: &str) -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(text).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is one")
}

/// The JSON documents in the blocks of docs/events.md.
fn examples() -> Vec<Value> {
    let text = include_str!("../../docs/events.md");
    let blocks = text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks
        .flat_map(|block| {
            let all = serde_json::Deserializer::from_str(block).into_iter::<Value>();
            all.map(|one| one.unwrap_or_else(|error| panic!("{error}: {block}")))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[track_caller]
fn fits(schema: &jsonschema::Validator, document: &Value) {
    let errors: Vec<String> =
        schema.iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert_eq!(errors, Vec::<String>::new(), "{document:#}");
}

#[test]
fn every_example_of_the_documentation_is_what_its_schema_says() {
    let events = schema(include_str!("../../docs/events.schema.json"));
    let backups = schema(include_str!("../../docs/message.schema.json"));
    let restores = schema(include_str!("../../docs/restore-message.schema.json"));
    let (mut types, mut messages) = (Vec::new(), 0);
    for example in examples() {
        if let Some(type_) = example["type"].as_str() {
            fits(&events, &example);
            types.push(type_.to_owned());
        } else if example["restore"].is_object() || example["drill"].is_object() {
            fits(&restores, &example);
            assert!(!backups.is_valid(&example));
            messages += 1;
        } else {
            fits(&backups, &example);
            assert!(!restores.is_valid(&example));
            messages += 1;
        }
    }
    assert!(messages >= 3, "{messages}");
    for type_ in ["backup.completed", "restore.completed", "drill.failed"] {
        assert!(types.contains(&format!("flexkeep.{type_}")), "{types:?}");
    }
}

#[test]
fn a_message_for_a_restore_has_no_place_for_a_connection_or_two_orders() {
    let schema = schema(include_str!("../../docs/restore-message.schema.json"));
    let message = |more: Value| {
        let mut message = json!({
            "version": 1, "server": "shop", "request": "shop/x", "requested": "2026-11-23T09:00:00Z",
        });
        for (key, value) in more.as_object().expect("fields") {
            message[key] = value.clone();
        }
        message
    };
    let target = json!({"target": "spare"});
    fits(&schema, &message(json!({"restore": target})));
    fits(&schema, &message(json!({"restore": target, "drill": null})));
    for bad in [
        json!({}),
        json!({"restore": {}}),
        json!({"restore": target, "drill": {}}),
        json!({"restore": {"target": "spare", "connection": "host=x"}}),
        json!({"restore": {"target": "host=x user=y"}}),
        json!({"restore": {"target": "spare", "backup": "shop"}}),
        json!({"drill": {"target": "spare"}}),
    ] {
        assert!(!schema.is_valid(&message(bad.clone())), "{bad}");
    }
}

/// The lane message's schema, with that of the request that it has in it.
fn lane_schema() -> jsonschema::Validator {
    let parse = |text: &str| serde_json::from_str::<Value>(text).expect("the schema is JSON");
    let request = parse(include_str!("../../docs/message.schema.json"));
    let id = request["$id"].as_str().expect("the schema has an id").to_owned();
    let registry = jsonschema::Registry::new()
        .add(id, request)
        .and_then(jsonschema::RegistryBuilder::prepare)
        .expect("the request's schema can be found");
    jsonschema::options()
        .with_registry(&registry)
        .build(&parse(include_str!("../../docs/lane-message.schema.json")))
        .expect("the schema is one")
}

/// What the function app itself writes for a request by hand, and one of a schedule.
fn lane_messages(now: Timestamp) -> Vec<LaneMessage> {
    let server: ServerName = "shop".parse().expect("a name");
    let by_hand = BackupMessage::manual(&server, "before-the-move", now).expect("a request");
    let scheduled = BackupMessage::scheduled(&server, now, now, true);
    let failed = BackupMessage {
        attempt: 3,
        waits: 2,
        looks: 9,
        told: true,
        last_error: Some("the server is away".to_owned()),
        ..scheduled.clone()
    };
    let lane = Lane { run: RunId::new(now), lane: 0, generation: 0 };
    let last = Lane { run: RunId::new(now), lane: 999, generation: u32::MAX };
    let mut messages = Vec::new();
    for backup in [by_hand, scheduled, failed] {
        for lane in [lane.clone(), lane.next(), last.clone()] {
            let message = LaneMessage::new(&backup, &lane);
            messages.extend([message.later().0, message.again().0, message]);
        }
    }
    messages
}

#[test]
fn every_message_of_a_lane_is_what_its_schema_says() {
    let schema = lane_schema();
    let now: Timestamp = "2026-11-22T01:30:00Z".parse().expect("a time");
    let messages = lane_messages(now);
    assert_eq!(messages.len(), 27);
    for message in messages {
        let body = serde_json::to_value(&message).expect("a message is JSON");
        fits(&schema, &body);
        assert_eq!(LaneMessage::parse(body.to_string().as_bytes(), now), Ok(message));
    }
}

#[test]
fn what_is_no_message_of_a_lane_is_refused_by_schema_and_program() {
    let schema = lane_schema();
    let now: Timestamp = "2026-11-22T01:30:00Z".parse().expect("a time");
    let good = serde_json::to_value(&lane_messages(now)[2]).expect("a message is JSON");
    fits(&schema, &good);
    let refused = |bad: &Value| {
        assert!(!schema.is_valid(bad), "the schema takes {bad}");
        let parsed = LaneMessage::parse(bad.to_string().as_bytes(), now);
        assert!(parsed.is_err(), "the program takes {bad}");
    };
    for field in ["version", "backup", "run", "lane", "generation"] {
        let mut bad = good.clone();
        bad.as_object_mut().expect("an object").remove(field);
        refused(&bad);
    }
    for (field, values) in [
        ("version", vec![json!(2), json!("1"), json!(null)]),
        ("backup", vec![json!({}), json!("shop/by-hand/k"), json!(null)]),
        ("run", vec![json!("20261122T013000Z"), json!("../../x"), json!("20261122T013000Z-XYZ")]),
        ("lane", vec![json!(-1), json!(1000), json!(1.5), json!("1")]),
        ("generation", vec![json!(-1), json!(4_294_967_296_u64), json!(null)]),
        ("waits", vec![json!(-1), json!(null)]),
        ("failures", vec![json!(4_294_967_296_u64), json!("none")]),
        ("server", vec![json!("shop")]),
    ] {
        for value in values {
            let mut bad = good.clone();
            bad[field] = value;
            refused(&bad);
        }
    }
    for (field, value) in
        [("server", json!("Shop Berlin")), ("request", json!("shop/a b")), ("attempt", json!(-1))]
    {
        let mut bad = good.clone();
        bad["backup"][field] = value;
        refused(&bad);
    }
    // The request by itself is for the other queue, and the other way round.
    refused(&good["backup"]);
    let requests = self::schema(include_str!("../../docs/message.schema.json"));
    assert!(requests.is_valid(&good["backup"]) && !requests.is_valid(&good));
}
