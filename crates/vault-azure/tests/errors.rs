//! Errors say what to do, and never show a secret.

mod kit;

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flexkeep_tests::{Azurite, FaultProxy, HttpFault, Requests, Rights};
use flexkeep_vault::store::{
    BlockStore, CopySource, PutMode, SharedStore, StoreError, StoreErrorKind,
};
use flexkeep_vault_azure::{BlobOptions, BlobPlace, BlobTarget};

use kit::{bytes, open, patient_for, static_token};

/// All that an error shows to whoever prints it in any way.
fn shown(error: &StoreError) -> String {
    let mut text = format!("{error}\n{error:?}\n{error:#?}");
    let mut next: Option<&dyn Error> = error.source();
    while let Some(cause) = next {
        text += &format!("\n{cause}\n{cause:?}");
        next = cause.source();
    }
    text
}

fn cause(error: &StoreError) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// One of each call, as far as they fail.
fn failures(store: &SharedStore) -> Vec<StoreError> {
    let mut none = |_| {};
    [
        store.put("name", b"1", PutMode::Create).err(),
        store.put("name", b"1", PutMode::Overwrite).err(),
        store.put("name", &bytes(9 << 20), PutMode::Create).err(),
        store.get("name", 9).err(),
        store.head("name").err(),
        store.list("", &mut none).err(),
        store.delete("name").err(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// One of each call of a target, with a signature and with a token, as far as they fail.
fn target_failures(
    url: &str,
    signature: &str,
    token: &str,
    options: &BlobOptions,
) -> Vec<StoreError> {
    let mut errors = Vec::new();
    for (url, credential) in
        [(format!("{url}?{signature}"), None), (url.to_owned(), Some(static_token(token)))]
    {
        let place = BlobPlace::parse(&url).unwrap();
        let to = BlobPlace::parse_target(&url).unwrap();
        let target = BlobTarget::open(&to, options, Some((&place, options)), credential).unwrap();
        assert!(!format!("{target:?} {}", target.location()).contains('?'));
        let upload = target.begin("name");
        let source = CopySource::Vault { name: "other", bytes: 9 };
        let own = CopySource::Own { name: "other", range: 0..9 };
        errors.extend([
            target.copy(&upload, 0, &source).unwrap_err().0,
            target.copy(&upload, 1, &own).unwrap_err().0,
        ]);
        let others = [
            target.length("name").err(),
            target.send(&upload, 0, bytes(100)).err(),
            target.sizes(&upload).err(),
            target.commit(&upload, &[7], false).err(),
            target.delete("name").err(),
        ];
        errors.extend(others.into_iter().flatten());
    }
    errors
}

fn quick() -> BlobOptions {
    let mut options = patient_for(Duration::from_millis(300));
    options.create_containers = false;
    // Blocks get what they need at this speed on top: next to nothing.
    options.retry.slowest_bytes_per_second = 1 << 30;
    options
}

/// All that any library logs, at the finest level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

#[test]
fn no_error_and_no_log_shows_a_signature_or_a_token() {
    let log = Log::start();
    let mut azurite = Azurite::start_https();
    let token = azurite.bearer_token();
    let signature = azurite.account_sas(Rights::ALL);
    let secret = signature.split("sig=").nth(1).unwrap().to_owned();
    let pem = Some(azurite.certificate_pem().to_owned());
    let container = format!("{}/box", azurite.endpoint());
    let mut errors = Vec::new();
    let trusting = BlobOptions { trusted_pem: pem, ..quick() };
    let proxy = FaultProxy::start(azurite.port());
    let proxied = container.replace(&azurite.port().to_string(), &proxy.port().to_string());
    proxy.fail(Requests::ALL, u32::MAX, HttpFault::CutRequest(0));
    for options in [&trusting, &quick()] {
        for url in [&container, &proxied] {
            let with_sas = BlobPlace::parse(&format!("{url}?{signature}")).unwrap();
            let with_token = BlobPlace::parse(url).unwrap();
            let credential = static_token(&token);
            let stores = [
                with_sas.open(None, options).unwrap().data,
                with_token.open(Some(credential), options).unwrap().data,
            ];
            errors.extend(target_failures(url, &signature, &token, options));
            for store in &stores {
                assert!(!format!("{store:?} {}", store.location()).contains(&secret));
                errors.extend(failures(store));
            }
            assert!(!format!("{with_sas:?} {with_sas}").contains(&secret));
        }
    }
    let expired = azurite.account_sas(Rights::EXPIRED);
    let store = BlobPlace::parse(&format!("{container}?{expired}")).unwrap();
    errors.extend(failures(&store.open(None, &trusting).unwrap().data));
    let forged = static_token(&token.replace("eyJ", "eyJ0"));
    let place = BlobPlace::parse(&container).unwrap();
    errors.extend(failures(&place.open(Some(forged), &trusting).unwrap().data));
    azurite.kill_nine();
    let store = BlobPlace::parse(&format!("{container}?{signature}")).unwrap();
    errors.extend(failures(&store.open(None, &trusting).unwrap().data));
    assert!(errors.len() > 50, "{}", errors.len());
    let expired = expired.split("sig=").nth(1).unwrap();
    let hidden = [&secret, expired, &token, token.rsplit('.').next().unwrap()];
    for error in &errors {
        let text = shown(error);
        for hidden in hidden.iter().chain(&["sig=", "eyJ"]) {
            assert!(!text.contains(hidden), "{text}");
        }
    }
    let log = log.text();
    assert!(log.contains("trying a storage request again"), "the log has what we say");
    for line in log.lines() {
        assert!(!hidden.iter().any(|hidden| line.contains(hidden)), "{line}");
    }
}

#[test]
fn refusals_say_which_rights_are_needed() {
    let azurite = Azurite::start();
    let base = format!("{}/box", azurite.endpoint());
    let answered = BlobOptions { create_containers: false, ..patient_for(Duration::from_secs(60)) };
    open(&azurite.container_url("box"), &patient_for(Duration::from_secs(60)));
    for (sas, calls) in [
        (azurite.account_sas(Rights::EXPIRED), 7),
        (azurite.container_sas("other", Rights::ALL), 7),
        (azurite.account_sas(Rights::READ), 4),
        (azurite.account_sas(Rights::ALL).replace("sig=", "sig=AAAA"), 7),
    ] {
        let errors = failures(&open(&format!("{base}?{sas}"), &answered).data);
        assert!(errors.len() >= calls, "{errors:?}");
        for error in errors.iter().filter(|error| error.kind != StoreErrorKind::NotFound) {
            assert_eq!(error.kind, StoreErrorKind::PermissionDenied, "{error:?}");
            assert!(cause(error).contains("shared access signature may have expired"), "{error:?}");
        }
    }
}

#[test]
fn a_missing_container_is_no_such_place() {
    let azurite = Azurite::start();
    let url = azurite.container_url("missing");
    let answered = BlobOptions { create_containers: false, ..patient_for(Duration::from_secs(60)) };
    let errors = failures(&open(&url, &answered).data);
    assert_eq!(errors.len(), 7, "{errors:?}");
    for error in &errors {
        assert_eq!(error.kind, StoreErrorKind::NoSuchPlace, "{error:?}");
        let command = "az storage container create --account-name flexkeeptest --name missing";
        assert!(cause(error).contains(command), "{error:?}");
    }
    // A signature for reading makes no container, and the way out is told.
    let place = format!("{}/missing?{}", azurite.endpoint(), azurite.account_sas(Rights::READ));
    let place = BlobPlace::parse(&place).unwrap();
    let error = place.open(None, &patient_for(Duration::from_secs(20))).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NoSuchPlace, "{error:?}");
    assert!(cause(&error).contains("az storage container create"), "{error:?}");
    // One that may do it makes both, and finds them again.
    for _ in 0..2 {
        let stores = open(&url, &patient_for(Duration::from_secs(20)));
        assert_eq!(stores.data.head("x").unwrap(), None);
        assert_eq!(stores.runs.head("x").unwrap(), None);
    }
}

#[test]
fn nothing_to_show_to_the_service_is_refused_with_the_way_out() {
    let place = BlobPlace::parse("https://acct.blob.core.windows.net/vault").unwrap();
    let error = place.open(None, &quick()).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
    assert!(cause(&error).contains("AZURE_STORAGE_SAS_TOKEN"), "{error:?}");
    let place = BlobPlace::parse("http://127.0.0.1:1/acct/vault").unwrap();
    let error = place.open(Some(static_token("x")), &quick()).unwrap_err();
    assert!(cause(&error).contains("https only"), "{error:?}");
}

#[test]
fn what_policies_protect_is_said_so() {
    let azurite = Azurite::start();
    let proxy = FaultProxy::start(azurite.port());
    let url = azurite.container_url("box");
    let straight = open(&url, &patient_for(Duration::from_secs(60))).data;
    let url = url.replace(&format!(":{}/", azurite.port()), &format!(":{}/", proxy.port()));
    let patient = BlobOptions { create_containers: false, ..patient_for(Duration::from_secs(60)) };
    let store = open(&url, &patient).data;
    let protected = HttpFault::Answer(409, "BlobImmutableDueToPolicy", None);
    proxy.fail(Requests("DELETE", ""), 1, protected.clone());
    proxy.fail(Requests("PUT", ""), 2, protected);
    let error = store.delete("name").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
    assert!(cause(&error).contains("immutability policy"), "{error:?}");
    // A create of what is there, and protected, finds it there.
    straight.put("name", b"1", PutMode::Create).unwrap();
    let error = store.put("name", b"1", PutMode::Create).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists, "{error:?}");
    let error = store.put("name", b"1", PutMode::Overwrite).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::PermissionDenied, "{error:?}");
    proxy.fail(Requests("PUT", ""), 1, HttpFault::Answer(507, "InsufficientStorage", None));
    let error = store.put("new", b"1", PutMode::Create).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NoSpace, "{error:?}");
}

#[test]
fn calls_work_on_threads_of_another_runtime() {
    let azurite = Azurite::start();
    let url = azurite.container_url("box");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stores = open(&url, &patient_for(Duration::from_secs(60)));
        stores.data.put("in-a-task", b"1", PutMode::Create).unwrap();
        let data = stores.data.clone();
        let got = tokio::task::spawn_blocking(move || data.get("in-a-task", 9)).await.unwrap();
        assert_eq!(got.unwrap(), b"1");
        // The stores' own runtime is dropped here, on a thread of this one.
        drop(stores);
    });
}

#[test]
fn tiers_and_tags_go_where_they_belong() {
    let azurite = Azurite::start();
    let proxy = FaultProxy::start(azurite.port());
    let url = azurite.container_url("box");
    open(&url, &patient_for(Duration::from_secs(60)));
    let url = url.replace(&format!(":{}/", azurite.port()), &format!(":{}/", proxy.port()));
    let patient = BlobOptions { create_containers: false, ..patient_for(Duration::from_secs(60)) };
    let stores = open(&format!("{url}&tier=cold&tags=team:dba"), &patient);
    stores.data.put("chunks/ab/abc", b"1", PutMode::Create).unwrap();
    stores.data.put("chunks/ab/big", &bytes(9 << 20), PutMode::Create).unwrap();
    stores.data.put("backups/srv/b.json", b"1", PutMode::Create).unwrap();
    stores.data.put("format.json", b"1", PutMode::Create).unwrap();
    let list = format!(
        "{}/box?restype=container&comp=list&include=tags&{}",
        azurite.endpoint(),
        azurite.account_sas(Rights { letters: "rwdlactf", expired: false })
    );
    let agent: ureq::Agent = ureq::Agent::new_with_defaults();
    let text = agent.get(&list).call().unwrap().body_mut().read_to_string().unwrap();
    let blob = |name: &str| {
        let from = text.find(&format!("<Name>{name}</Name>")).expect("listed");
        text[from..].split("</Blob>").next().unwrap().to_owned()
    };
    for chunk in ["chunks/ab/abc", "chunks/ab/big"] {
        assert!(blob(chunk).contains("<AccessTier>Cold</AccessTier>"), "{}", blob(chunk));
        assert!(!blob(chunk).contains("dba"));
    }
    let manifest = blob("backups/srv/b.json");
    assert!(manifest.contains("<Value>dba</Value>"), "{manifest}");
    for name in ["backups/srv/b.json", "format.json"] {
        assert!(!blob(name).contains("<AccessTier>Cold"), "{}", blob(name));
    }
    assert!(!blob("format.json").contains("dba"));
}
