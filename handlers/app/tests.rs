//! Folders, registrations, bindings and settings name the same things.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use flexkeep_bus::BusConnection;
use serde_json::Value;

use super::*;
use crate::settings::{
    BUS, EVENTS, LANE_SECONDS, LANES_QUEUE, POLICY, PROGRESS_SECONDS, QUEUE, RESTORE_QUEUE,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("handlers is in the checkout")
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// function.json by the name of its folder.
fn function_jsons() -> BTreeMap<String, Value> {
    let folders = std::fs::read_dir(root().join("handlers")).expect("handlers is a folder");
    folders
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("function.json").exists())
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            (name, json(&path.join("function.json")))
        })
        .collect()
}

fn settings_in(file: &str) -> BTreeMap<String, String> {
    let example = json(&root().join(file));
    serde_json::from_value(example["Values"].clone()).expect("Values are texts")
}

fn example_settings() -> BTreeMap<String, String> {
    settings_in("local.settings.example.json")
}

fn settings(root: &Path) -> Settings {
    let values = example_settings();
    let env = move |name: &str| values.get(name).cloned();
    let mut settings = Settings::read(&env).expect("the example has all settings");
    settings.root = root.to_owned();
    settings.bus = BusConnection::parse("sqlite:queues.db", root).expect("a connection");
    settings
}

#[test]
fn every_folder_is_registered_and_every_function_has_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = app(&settings(folder.path())).expect("the app registers its functions");
    let registered: BTreeMap<String, &str> =
        app.functions().map(|(name, kind)| (name.to_owned(), kind.binding_type())).collect();
    let folders: BTreeMap<String, String> = function_jsons()
        .into_iter()
        .map(|(name, json)| {
            let bindings = json["bindings"].as_array().expect("bindings").clone();
            let mut triggers = bindings
                .iter()
                .filter_map(|binding| binding["type"].as_str())
                .filter(|type_| type_.ends_with("Trigger"));
            let trigger = triggers.next().expect("a trigger").to_owned();
            assert_eq!(triggers.next(), None, "{name} has one trigger");
            (name, trigger)
        })
        .collect();
    let registered: BTreeMap<String, String> =
        registered.into_iter().map(|(name, kind)| (name, kind.to_owned())).collect();
    assert_eq!(registered, folders);
    assert_eq!(registered.len(), 5);
}

#[test]
fn folders_hold_nothing_that_the_host_would_take_for_a_language() {
    for name in function_jsons().keys() {
        for entry in std::fs::read_dir(root().join("handlers").join(name)).expect("a folder") {
            let file = entry.expect("an entry").file_name();
            let file = file.to_string_lossy();
            assert!(file == "function.json" || file.ends_with(".rs"), "{name}/{file}");
        }
    }
}

#[test]
fn settings_are_named_where_they_are_used_and_used_where_they_are_named() {
    let mut used: BTreeSet<String> =
        [POLICY, BUS, QUEUE, LANES_QUEUE, LANE_SECONDS, PROGRESS_SECONDS, RESTORE_QUEUE, EVENTS]
            .map(str::to_owned)
            .into();
    for (name, function) in function_jsons() {
        for binding in function["bindings"].as_array().expect("bindings") {
            for (key, value) in binding.as_object().expect("a binding") {
                let Some(text) = value.as_str() else { continue };
                if let Some(setting) = text.strip_prefix('%').and_then(|t| t.strip_suffix('%')) {
                    used.insert(setting.to_owned());
                }
                if key == "connection" {
                    assert_eq!(text, BUS, "{name}: messages are sent where they are received");
                    used.insert(text.to_owned());
                }
                if key == "queueName" {
                    let queue = match name.as_str() {
                        "restore" => RESTORE_QUEUE,
                        "lane" => LANES_QUEUE,
                        _ => QUEUE,
                    };
                    assert_eq!(text, format!("%{queue}%"), "{name}");
                }
            }
        }
    }
    // For Microsoft's host itself.
    used.extend(["FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage"].map(str::to_owned));
    let named: BTreeSet<String> = example_settings().into_keys().collect();
    assert_eq!(named, used);
}

#[test]
fn the_example_for_core_tools_differs_by_the_bus_alone() {
    let (mut own, mut core_tools) =
        (example_settings(), settings_in("local.settings.core-tools.example.json"));
    let bus = |values: &BTreeMap<String, String>| {
        let env = |name: &str| values.get(name).cloned();
        Settings::read(&env).expect("the example has all settings").bus
    };
    let BusConnection::ServiceBus(emulator) = bus(&core_tools) else {
        panic!("Core Tools know Service Bus only")
    };
    assert_eq!((emulator.host(), emulator.has_tls()), ("localhost", false));
    assert!(!emulator.wants_credential());
    assert!(matches!(bus(&own), BusConnection::Local(_)));
    assert!(own.remove(BUS).is_some() && core_tools.remove(BUS).is_some());
    assert_eq!(own, core_tools);
    // The emulator has the queues that docs say.
    let docs = std::fs::read_to_string(root().join("docs/self-hosting.md")).expect("docs");
    let block = docs.split("<!-- tested: emulator -->\n```json\n").nth(1).expect("a block");
    let config: Value =
        serde_json::from_str(block.split("\n```").next().expect("a part")).expect("JSON");
    let queues = config["UserConfig"]["Namespaces"][0]["Queues"].as_array().expect("queues");
    let there: BTreeSet<&str> = queues.iter().filter_map(|queue| queue["Name"].as_str()).collect();
    let wanted = [QUEUE, LANES_QUEUE, RESTORE_QUEUE].map(|setting| own[setting].as_str());
    assert_eq!(there, BTreeSet::from(wanted));
}

#[test]
fn messages_arrive_as_bytes_so_that_a_body_cannot_pose_as_metadata() {
    for (name, function) in function_jsons() {
        for binding in function["bindings"].as_array().expect("bindings") {
            if binding["type"] == "serviceBusTrigger" {
                assert_eq!(binding["dataType"], "binary", "{name}");
            }
        }
    }
}

#[test]
fn host_json_starts_this_handler_and_gives_its_locks_as_long_as_its_functions() {
    let host = json(&root().join("host.json"));
    let description = &host["customHandler"]["description"];
    assert_eq!(description["defaultExecutablePath"], "flexkeep-handler");
    assert_eq!(env!("CARGO_BIN_NAME"), "flexkeep-handler");
    // The response envelope is what the handler speaks.
    assert_eq!(host["customHandler"]["enableForwardingHttpRequest"], false);
    let timeout = &host["functionTimeout"];
    assert_eq!(timeout, &host["extensions"]["serviceBus"]["maxAutoLockRenewalDuration"]);
    let timeout = host_json_timeout(HOST_JSON).expect("host.json").expect("a limit");
    assert_eq!(timeout.as_secs(), 86_400);
    assert_eq!(host["extensions"]["http"]["routePrefix"], "api");
}

#[test]
fn an_app_that_lacks_the_folder_of_a_function_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let names: Vec<String> = function_jsons().into_keys().collect();
    for name in &names {
        std::fs::create_dir(folder.path().join(name)).expect("a folder");
        std::fs::write(folder.path().join(name).join("function.json"), "{}").expect("a file");
    }
    app(&settings(folder.path())).expect("all folders are there");
    std::fs::remove_dir_all(folder.path().join("lane")).expect("it was there");
    let error = app(&settings(folder.path())).map(drop).expect_err("an error").to_string();
    assert!(error.contains("these functions: lane;"), "{error}");
}
