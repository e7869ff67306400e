//! The JSON schemas of docs/, held against the examples of the documentation and against what must be
//! refused.

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
