//! Settings, queues, topics, containers and functions have the same names in host.json,
//! function.json, the example settings, the code, Bicep and azd's files.

use std::collections::{BTreeMap, BTreeSet};

use flexkeep_bus::QueueOptions;
use serde_json::Value;

use super::{check, read, root};

/// What the host takes from functionAppConfig on Flex Consumption, and refuses or ignores as a
/// setting.
const NOT_ON_FLEX: &[&str] = &[
    "ENABLE_ORYX_BUILD",
    "FUNCTIONS_EXTENSION_VERSION",
    "FUNCTIONS_MAX_HTTP_CONCURRENCY",
    "FUNCTIONS_WORKER_DYNAMIC_CONCURRENCY_ENABLED",
    "FUNCTIONS_WORKER_PROCESS_COUNT",
    "FUNCTIONS_WORKER_RUNTIME",
    "FUNCTIONS_WORKER_RUNTIME_VERSION",
    "SCM_DO_BUILD_DURING_DEPLOYMENT",
    "TZ",
    "WEBSITES_CONTAINER_START_TIME_LIMIT",
    "WEBSITE_CONTENTAZUREFILECONNECTIONSTRING",
    "WEBSITE_CONTENTOVERVNET",
    "WEBSITE_CONTENTSHARE",
    "WEBSITE_DNS_SERVER",
    "WEBSITE_MAX_DYNAMIC_APPLICATION_SCALE_OUT",
    "WEBSITE_MOUNT_ENABLED",
    "WEBSITE_RUN_FROM_PACKAGE",
    "WEBSITE_SKIP_CONTENTSHARE_VALIDATION",
    "WEBSITE_TIME_ZONE",
    "WEBSITE_VNET_ROUTE_ALL",
];

/// Settings of the app that may be left out: on Azure the package has what they name.
const OPTIONAL: &[&str] = &["FLEXKEEP_PG_BIN"];
/// The policy's variable for the vault; a setting like any that a policy names.
const VAULT: &str = "FLEXKEEP_VAULT";

fn json(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What the Bicep files declare, by path.
fn bicep() -> BTreeMap<String, Value> {
    let output = check(&["--inventory", "infra"]).expect_success();
    serde_json::from_str(&output.text()).expect("an inventory")
}

fn texts(value: &Value) -> BTreeSet<String> {
    let array = value.as_array().unwrap_or_else(|| panic!("no array: {value}"));
    array
        .iter()
        .map(|one| one.as_str().unwrap_or_else(|| panic!("no text: {one}")).into())
        .collect()
}

/// The resources of a type in a file: their properties by symbol.
fn resources(file: &Value, type_: &str) -> BTreeMap<String, Value> {
    let all = file["resources"].as_array().expect("resources");
    all.iter()
        .filter(|one| one["type"] == type_)
        .map(|one| (one["symbol"].as_str().expect("a symbol").into(), one["properties"].clone()))
        .collect()
}

fn functions() -> BTreeMap<String, Value> {
    let folders = std::fs::read_dir(root().join("handlers")).expect("handlers");
    folders
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("function.json").exists())
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            let function = json(&format!("handlers/{name}/function.json"));
            (name, function)
        })
        .collect()
}

/// The settings that bindings name: `%NAME%`, and connections.
fn settings_of_bindings() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for function in functions().values() {
        for binding in function["bindings"].as_array().expect("bindings") {
            for (key, value) in binding.as_object().expect("a binding") {
                let Some(text) = value.as_str() else { continue };
                let variable = text.strip_prefix('%').and_then(|text| text.strip_suffix('%'));
                names.extend(variable.map(str::to_owned));
                if key == "connection" {
                    names.insert(text.to_owned());
                }
            }
        }
    }
    names
}

/// The constants of handlers/settings.rs that name settings of the app.
fn settings_of_code() -> BTreeSet<String> {
    let text = read("handlers/settings.rs");
    let tests = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..tests]
        .lines()
        .filter_map(|line| line.split_once(": &str = \"")?.1.split('"').next())
        .filter(|name| name.starts_with("FLEXKEEP_"))
        .map(str::to_owned)
        .collect()
}

/// The app's settings in Bicep, those that can be set otherwise too.
fn settings_of_bicep(bicep: &BTreeMap<String, Value>) -> Value {
    let variables = &bicep["infra/modules/app.bicep"]["variables"];
    let mut all = variables["settings"].as_object().expect("settings").clone();
    all.extend(variables["defaults"].as_object().expect("defaults").clone());
    all.into()
}

/// Keys of an object.
fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().cloned().collect()
}

/// The queues of infra/main.bicep: name by setting.
fn queues(bicep: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let queues = bicep["infra/main.bicep"]["variables"]["queues"].as_array().expect("queues");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    queues.iter().map(|queue| (text(&queue["setting"]), text(&queue["name"]))).collect()
}

#[test]
fn the_app_has_the_same_settings_on_azure_as_on_one_machine() {
    let bicep = bicep();
    let mut given = keys(&settings_of_bicep(&bicep));
    given.extend(queues(&bicep).into_keys());
    for name in NOT_ON_FLEX {
        assert!(!given.contains(*name), "{name} does not exist on Flex Consumption");
    }
    assert!(given.contains(VAULT) && read("docs/policy.md").contains("\"${FLEXKEEP_VAULT}\""));
    // An identity connection is a group of settings.
    let given: BTreeSet<String> = given
        .iter()
        .filter(|name| name.starts_with("FLEXKEEP_") && *name != VAULT)
        .map(|name| name.split("__").next().expect("split gives one part at least").to_owned())
        .collect();
    let example = json("local.settings.example.json")["Values"].clone();
    let mut example: BTreeSet<String> =
        keys(&example).into_iter().filter(|name| !NOT_ON_FLEX.contains(&name.as_str())).collect();
    assert!(example.remove("AzureWebJobsStorage"), "Core Tools need it");
    assert_eq!(given, example, "Bicep and local.settings.example.json");

    let code: BTreeSet<String> =
        settings_of_code().into_iter().filter(|name| !OPTIONAL.contains(&name.as_str())).collect();
    assert!(code.len() >= 4, "{code:?}");
    let used: BTreeSet<String> = code.union(&settings_of_bindings()).cloned().collect();
    assert_eq!(given, used, "Bicep, and the code with function.json");
}

/// Names of settings in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let rests = text.match_indices("FLEXKEEP_").map(|(at, _)| &text[at..]);
    let name = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(rest.len());
        rest[..end].trim_end_matches('_').to_owned()
    };
    rests.map(name).filter(|name| name != "FLEXKEEP").collect()
}

/// Names of settings in all Rust files below a folder.
fn names_below(folder: &std::path::Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| match path.extension() {
            _ if path.is_dir() => names_below(&path),
            Some(extension) if extension == "rs" => {
                names_in(&std::fs::read_to_string(&path).expect("UTF-8"))
            }
            _ => BTreeSet::new(),
        })
        .collect()
}

#[test]
fn each_variable_that_a_program_reads_is_in_its_docs() {
    let (cli, app) = (read("docs/cli.md"), read("docs/self-hosting.md"));
    let crates = std::fs::read_dir(root().join("crates")).expect("crates");
    for folder in crates.map(|entry| entry.expect("an entry").path()) {
        let of_command = folder.ends_with("cli");
        for name in names_below(&folder.join("src")) {
            let quoted = format!("`{name}`");
            // Exports are made by the command only.
            let is_the_command_s = of_command || name == "FLEXKEEP_EXPORT_SAS_TOKEN";
            let docs = if is_the_command_s { &cli } else { &app };
            assert!(docs.contains(&quoted), "{name} of {} is in no docs", folder.display());
        }
    }
    let of_app = names_below(&root().join("handlers"));
    assert!(of_app.len() >= 8, "{of_app:?}");
    for name in of_app {
        assert!(app.contains(&format!("`{name}`")), "{name} is not in docs/self-hosting.md");
    }
}

#[test]
fn connections_are_complete_and_by_the_one_identity() {
    let bicep = bicep();
    let settings = &settings_of_bicep(&bicep);
    for (connection, first) in
        [("FLEXKEEP_BUS", "fullyQualifiedNamespace"), ("AzureWebJobsStorage", "accountName")]
    {
        let group: BTreeSet<String> = keys(settings)
            .iter()
            .filter_map(|name| name.strip_prefix(&format!("{connection}__")).map(str::to_owned))
            .collect();
        assert_eq!(group, BTreeSet::from([first, "credential", "clientId"].map(str::to_owned)));
        assert_eq!(settings[format!("{connection}__credential")], "managedidentity");
        assert_eq!(settings[format!("{connection}__clientId")], settings["AZURE_CLIENT_ID"]);
        assert_eq!(settings.get(connection), None, "{connection} is no connection string");
    }
}

#[test]
fn queues_topic_and_containers_are_the_ones_that_settings_name() {
    let bicep = bicep();
    let main = &bicep["infra/main.bicep"];
    let settings = &settings_of_bicep(&bicep);
    let example = json("local.settings.example.json")["Values"].clone();
    // Each queue has a trigger, and each trigger's queue is there.
    let triggers: BTreeSet<String> = functions()
        .values()
        .flat_map(|function| function["bindings"].as_array().expect("bindings").clone())
        .filter_map(|binding| Some(binding["queueName"].as_str()?.trim_matches('%').to_owned()))
        .collect();
    let queues = queues(&bicep);
    assert_eq!(queues.keys().cloned().collect::<BTreeSet<_>>(), triggers);
    for (setting, name) in &queues {
        assert_eq!(example[setting], *name);
    }
    assert_eq!(main["parameters"]["tick"]["default"], example["FLEXKEEP_TICK"]);
    assert_eq!(main["parameters"]["policyPath"]["default"], example["FLEXKEEP_POLICY"]);

    assert_eq!(main["variables"]["eventsTopic"], "events");
    assert_eq!(settings["FLEXKEEP_EVENTS"], "topic:${topicName},log");

    let vault = &bicep["infra/modules/vault.bicep"];
    let containers = resources(vault, "Microsoft.Storage/storageAccounts/blobServices/containers");
    let names: BTreeSet<&str> =
        containers.values().filter_map(|container| container["name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["runs", "vault"]));
    assert_eq!(vault["variables"]["containerName"], "vault");
    assert_eq!(vault["variables"]["runsContainerName"], "runs");
    assert_eq!(
        vault["outputs"]["url"],
        "${account.properties.primaryEndpoints.blob}${containerName}?runs=${runsContainerName}\
         ${tierParameter}${tagParameter}"
    );
    assert!(read("infra/lock-vault.sh").contains("--container-name vault "));
}

#[test]
fn a_queue_promises_on_azure_what_it_promises_locally() {
    let bicep = bicep();
    let queues =
        resources(&bicep["infra/modules/bus.bicep"], "Microsoft.ServiceBus/namespaces/queues");
    assert_eq!(queues.len(), 1);
    let queue = &queues["queues"]["properties"];
    let local = QueueOptions::default();
    let days = |name: &str| {
        let text = queue[name].as_str().unwrap_or_else(|| panic!("no {name}"));
        let days = text.strip_prefix('P').and_then(|text| text.strip_suffix('D'));
        days.and_then(|days| days.parse::<u64>().ok()).unwrap_or_else(|| panic!("{name}: {text}"))
    };
    assert_eq!(queue["maxDeliveryCount"], local.max_delivery_count);
    assert_eq!(queue["requiresDuplicateDetection"], true);
    let day = 24 * 60 * 60;
    assert_eq!(days("duplicateDetectionHistoryTimeWindow") * day, local.duplicate_window.as_secs());
    assert_eq!(days("defaultMessageTimeToLive") * day, local.message_ttl.as_secs());
    assert_eq!(queue["deadLetteringOnMessageExpiration"], true);
    // The host renews it; on Azure it is as long as it can be.
    assert_eq!(queue["lockDuration"], "PT5M");
}

#[test]
fn functions_and_events_that_infra_names_are_there() {
    let bicep = bicep();
    let functions = functions();
    let app = read("infra/modules/app.bicep");
    let always_ready = app.split("'function:").nth(1).and_then(|rest| rest.split('\'').next());
    assert!(functions.contains_key(always_ready.expect("a function that is always ready")));
    let alerts = read("infra/modules/alerts.bicep");
    let watched =
        alerts.split("OperationName =~ \"").nth(1).and_then(|rest| rest.split('"').next());
    assert!(functions.contains_key(watched.expect("a function that is watched")));

    let schema = read("docs/events.schema.json");
    let events = &bicep["infra/modules/alerts.bicep"]["variables"]["events"];
    let types: BTreeSet<&str> =
        events.as_array().expect("events").iter().filter_map(|one| one["type"].as_str()).collect();
    assert!(types.contains("flexkeep.server.overdue") && types.contains("flexkeep.backup.failed"));
    for type_ in types {
        assert!(schema.contains(&format!("\"{type_}\"")), "docs/events.schema.json has no {type_}");
    }
    // How a line of the log has the type and the server.
    let sink = read("crates/bus/src/sink.rs");
    assert!(sink.contains("event_type = event.type_") && sink.contains("subject = event.subject"));
}

#[test]
fn no_role_can_delete_a_backup_and_no_account_takes_keys() {
    let bicep = bicep();
    let vault = &bicep["infra/modules/vault.bicep"];
    let roles = resources(vault, "Microsoft.Authorization/roleDefinitions");
    let rights = |role: &str| {
        let permissions = &roles[role]["properties"]["permissions"][0];
        assert_eq!(permissions["actions"], Value::Array(vec![]), "{role}");
        permissions["dataActions"].clone()
    };
    let named = |names: &[&str]| names.iter().map(|name| format!("${{blobData}}/{name}")).collect();
    let of_tags = "empty(indexTags) ? writerActions : concat(writerActions, tagActions)";
    assert_eq!(rights("writerRole")["expression"], of_tags);
    let actions = |variable: &str| texts(&vault["variables"][variable]);
    assert_eq!(actions("writerActions"), named(&["read", "write", "add/action"]));
    assert_eq!(actions("tagActions"), named(&["tags/write"]));
    assert_eq!(texts(&rights("runsRole")), named(&["read", "write", "add/action", "delete"]));
    for file in ["infra/modules/vault.bicep", "infra/modules/host-storage.bicep"] {
        let account = &resources(&bicep[file], "Microsoft.Storage/storageAccounts")["account"];
        assert_eq!(account["properties"]["allowSharedKeyAccess"], false, "{file}");
        assert_eq!(account["properties"]["allowBlobPublicAccess"], false, "{file}");
        assert_eq!(account["properties"]["minimumTlsVersion"], "TLS1_2", "{file}");
    }
    let bus = resources(&bicep["infra/modules/bus.bicep"], "Microsoft.ServiceBus/namespaces");
    assert_eq!(bus["busNamespace"]["properties"]["disableLocalAuth"], true);
    let policies = "Microsoft.Storage/storageAccounts/blobServices/containers/immutabilityPolicies";
    let policies = resources(vault, policies);
    assert_eq!(policies["policy"]["parent"]["expression"], "container");
    assert_eq!(policies["policy"]["properties"]["allowProtectedAppendWrites"], false);
    // Also where it is to be locked: what is not there is not locked.
    let text = read("infra/modules/vault.bicep");
    assert!(text.contains("= if (immutability != 'off' && !policyIsLocked) {"));
}

/// What an instance works on at once fits its memory, and docs name host.json's own number.
#[test]
fn as_many_calls_at_once_as_fit() {
    let bicep = bicep();
    let settings = settings_of_bicep(&bicep);
    let name = "AzureFunctionsJobHost__extensions__serviceBus__maxConcurrentCalls";
    assert_eq!(
        settings[name]["expression"],
        "instanceMemoryMB < 2048 ? '1' : instanceMemoryMB < 4096 ? '2' : '4'"
    );
    let deploy = read("docs/deploy.md");
    for (memory, calls) in [(512, 1), (2048, 2), (4096, 4)] {
        // A lane's most, beside a third for the Functions host.
        assert!(calls * 192 * 3 <= memory * 2, "{memory} MB");
        assert!(
            deploy.contains(&format!("| {memory} | {calls} |")),
            "{memory} MB in docs/deploy.md"
        );
    }
    // What is set otherwise wins over what can be, and nothing over what must be.
    let app = read("infra/modules/app.bicep");
    assert!(app.contains("properties: union(defaults, extraAppSettings, queueSettings, settings)"));

    let calls = &json("host.json")["extensions"]["serviceBus"]["maxConcurrentCalls"];
    assert_eq!(*calls, 8);
    for (path, said) in [
        ("docs/self-hosting.md", "names, eight at a time."),
        ("docs/self-hosting.md", "Eight backups, eight lanes of backups, and eight restores"),
        ("docs/support-matrix.md", "eight of each (`maxConcurrentCalls` in host.json)"),
        ("docs/events.md", "At most eight messages of a queue are worked on at once"),
    ] {
        assert!(read(path).contains(said), "{path} does not say {said:?}");
    }
}

#[test]
fn azd_finds_the_package_the_app_and_each_variable_that_the_docs_set() {
    let azure = read("azure.yaml");
    assert!(azure.contains("\n  app:\n") && azure.contains("run: infra/lock-vault.sh\n"));
    let site = resources(&bicep()["infra/modules/app.bicep"], "Microsoft.Web/sites");
    let tags = site["app"]["tags"]["expression"].as_str().expect("tags").to_owned();
    assert!(tags.contains("'azd-service-name': 'app'"), "{tags}");
    assert!(azure.contains("dist: target/package/flexkeep.zip\n"));
    assert!(read("scripts/package.sh").contains("target/package/flexkeep.zip"));
    assert!(read("Makefile").lines().any(|line| line.starts_with("package:")));

    let read_by_azd = [read("infra/main.bicepparam"), azure, read("infra/lock-vault.sh")].concat();
    let deploy = read("docs/deploy.md");
    let set: BTreeSet<&str> = deploy
        .split("azd env set ")
        .skip(1)
        .filter_map(|rest| rest.split_whitespace().next())
        .filter(|name| name.starts_with(|first: char| first.is_ascii_uppercase()))
        .collect();
    assert!(set.contains("AZURE_LOCATION"), "{set:?}");
    for name in set {
        assert!(read_by_azd.contains(name), "docs/deploy.md sets {name}, which nothing reads");
    }
}
