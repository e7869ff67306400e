use super::*;

struct App {
    root: tempfile::TempDir,
    settings: Settings,
}

impl App {
    fn new() -> Self {
        let mut settings = Settings::default();
        settings.override_with([
            ("SB", "sqlite:queue.db"),
            ("Q", "jobs"),
            ("TICK", "0 */5 * * * *"),
        ]);
        Self { root: tempfile::tempdir().unwrap(), settings }
    }

    fn write(&self, name: &str, text: &str) {
        let folder = self.root.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(FUNCTION_FILE), text).unwrap();
    }

    fn load(&self) -> Result<Vec<Function>, HostError> {
        load_functions(self.root.path(), self.root.path(), &self.settings, None)
    }

    /// The error that one function with these bindings gives, without the path of the file.
    fn refused(&self, bindings: &str) -> String {
        self.write("f", &format!("{{\"bindings\":[{bindings}]}}"));
        let error = self.load().unwrap_err().to_string();
        error.split_once("f/function.json: ").expect(&error).1.to_owned()
    }
}

const QUEUE: &str = r#"{"type":"serviceBusTrigger","direction":"in","name":"msg","queueName":"%Q%","connection":"SB"}"#;
const TIMER: &str = r#"{"type":"timerTrigger","direction":"in","name":"t","schedule":"%TICK%"}"#;

#[test]
fn functions_are_direct_subfolders_sorted_by_name_with_settings_resolved() {
    let app = App::new();
    app.write("onMsg", &format!("{{\"bindings\":[{QUEUE}]}}"));
    app.write("aTimer", &format!("{{\"bindings\":[{TIMER}]}}"));
    app.write("deep/er", "{");
    std::fs::create_dir(app.root.path().join("nothing")).unwrap();
    let functions = app.load().unwrap();
    assert_eq!(functions.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["aTimer", "onMsg"]);
    let Trigger::Queue(queue) = &functions[1].trigger else { panic!("{:?}", functions[1]) };
    assert_eq!(queue.queue, "jobs");
    assert_eq!(queue.connection.setting, "SB");
    assert_eq!(queue.connection.path, app.root.path().join("queue.db"));
    assert!(!queue.batches);
    let Trigger::Timer(timer) = &functions[0].trigger else { panic!("{:?}", functions[0]) };
    assert_eq!(timer.text, "0 */5 * * * *");
    assert!(timer.use_monitor && !timer.run_on_startup);
}

#[test]
fn an_http_function_has_the_defaults_of_the_host() {
    let app = App::new();
    app.write(
        "hello",
        r#"{"bindings":[{"type":"httpTrigger","name":"req","methods":["get"]},
                        {"type":"http","direction":"out","name":"res"}]}"#,
    );
    let function = app.load().unwrap().remove(0);
    assert!(function.is_plain_http());
    let info = function.info("api");
    let methods = vec!["GET".to_owned()];
    let trigger =
        TriggerInfo::Http { route: "api/hello".into(), methods, auth: AuthLevel::Function };
    assert_eq!(info.trigger, trigger);
}

use crate::function::TriggerInfo;

#[test]
fn a_function_is_switched_off_by_its_file_or_by_a_setting() {
    let disabled = |file: &str, setting: &str| {
        let mut app = App::new();
        app.settings.override_with([(setting, "true")]);
        app.write("f", &format!("{{{file}\"bindings\":[{TIMER}]}}"));
        app.load().unwrap()[0].disabled
    };
    assert!(!disabled("", "other"));
    assert!(disabled("\"disabled\":true,", "other"));
    assert!(disabled("\"disabled\":\"OFF\",", "off"));
    assert!(disabled("", "AzureWebJobs.f.Disabled"));
    assert!(disabled("", "AzureWebJobs__F__Disabled"));
    assert!(disabled("", "AzureWebJobs_f_Disabled"));
}

#[test]
fn bindings_that_this_host_cannot_serve_are_refused_with_the_reason() {
    let app = App::new();
    assert_eq!(app.refused(""), "bindings: must hold exactly one trigger, not 0");
    assert_eq!(
        app.refused(&format!("{QUEUE},{TIMER}")),
        "bindings: must hold exactly one trigger, not 2"
    );
    let unknown = app.refused(r#"{"type":"queueTrigger","name":"q","direction":"in"}"#);
    assert!(
        unknown.starts_with("bindings[0].type: \"queueTrigger\" is not supported: this host knows")
    );
    let unknown =
        app.refused(&format!(r#"{TIMER},{{"type":"eventGrid","name":"e","direction":"out"}}"#));
    assert!(unknown.starts_with("bindings[1].type: \"eventGrid\" is not supported"));
    let twice = app.refused(&format!(r#"{TIMER},{{"type":"http","name":"T","direction":"out"}}"#));
    assert_eq!(twice, "bindings[1].name: \"T\" is the name of another binding too");
    let direction = app.refused(&format!(r#"{TIMER},{{"type":"http","name":"r"}}"#));
    assert_eq!(direction, "bindings[1].direction: must be \"out\" for this type");
    let schedule = app.refused(r#"{"type":"timerTrigger","name":"t","schedule":"0 0 0 * * 7"}"#);
    assert_eq!(
        schedule,
        "bindings[0].schedule: \"0 0 0 * * 7\": day of week: 7 is not a day, Sunday is 0"
    );
    let sessions = QUEUE.replace("\"name\"", "\"isSessionsEnabled\":true,\"name\"");
    assert!(app.refused(&sessions).starts_with("bindings[0].isSessionsEnabled: "));
    let topic = QUEUE.replace("queueName", "topicName");
    assert_eq!(
        app.refused(&topic),
        "bindings[0].topicName: this host drives queues only; use queueName"
    );
    let data_type = QUEUE.replace("\"name\"", "\"dataType\":\"stream\",\"name\"");
    assert!(app.refused(&data_type).starts_with("bindings[0].dataType: \"stream\""));
}

#[test]
fn a_setting_that_is_missing_or_names_no_embedded_queue_is_named_but_not_shown() {
    let mut app = App::new();
    app.settings.override_with([
        ("REAL", "Endpoint=sb://ns/;SharedAccessKey=secret"),
        ("ID__fullyQualifiedNamespace", "ns.servicebus.windows.net"),
    ]);
    let with = |connection: &str| QUEUE.replace("\"SB\"", &format!("\"{connection}\""));
    let missing = app.refused(&with("NONE"));
    assert_eq!(
        missing,
        "bindings[0].connection: setting NONE does not exist; set it to sqlite:PATH"
    );
    let real = app.refused(&with("REAL"));
    assert!(real.contains("setting REAL is not of the form sqlite:PATH"), "{real}");
    assert!(!real.contains("secret"), "{real}");
    assert!(app.refused(&with("ID")).contains("set ID to sqlite:PATH"));
    let queue = app.refused(&QUEUE.replace("%Q%", "%NOQ%"));
    assert_eq!(queue, "bindings[0].queueName: setting NOQ does not exist (in \"%NOQ%\")");
    app.settings.override_with([("AzureWebJobsShort", "sqlite:/abs/q.db")]);
    app.write("f", &format!("{{\"bindings\":[{}]}}", with("Short")));
    let function = app.load().unwrap().remove(0);
    let Trigger::Queue(queue) = function.trigger else { panic!("not a queue") };
    assert_eq!(queue.connection.path, Path::new("/abs/q.db"));
}

#[test]
fn names_of_functions_follow_the_contract() {
    assert!(check_name("onMsg-2_x").is_ok());
    for name in ["", "1st", "a.b", "_a", "host", "HOST", "é", &"a".repeat(129)] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
    let app = App::new();
    app.write("bad.name", &format!("{{\"bindings\":[{TIMER}]}}"));
    assert!(app.load().unwrap_err().to_string().contains("bad.name/function.json: (folder): "));
}

#[test]
fn an_app_root_without_functions_and_a_broken_file_are_refused() {
    let app = App::new();
    assert!(matches!(app.load(), Err(HostError::NoFunctions { .. })));
    app.write("f", "{\"bindings\":");
    assert!(
        matches!(app.load(), Err(HostError::Json { path, .. }) if path.ends_with("f/function.json"))
    );
    app.write("f", "{\"bindings\":{}}");
    assert!(app.load().unwrap_err().to_string().ends_with("bindings: must be a list of bindings"));
    app.write("f", &format!("{{\"scriptFile\":\"gone.js\",\"bindings\":[{TIMER}]}}"));
    assert!(app.load().unwrap_err().to_string().ends_with("scriptFile: gone.js does not exist"));
    app.write(
        "f",
        &format!("{{\"retry\":{{\"strategy\":\"fixedDelay\"}},\"bindings\":[{TIMER}]}}"),
    );
    assert!(app.load().unwrap_err().to_string().contains("retry: this host does not retry"));
}
