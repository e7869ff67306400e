//! From a place to its stores.

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientOptions, RetryOptions, Transport, Url};
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use flexkeep_vault::store::{SharedStore, StoreError, StoreErrorKind};

use crate::checksum::ChecksumPolicy;
use crate::client::Container;
use crate::failure::{BlobError, Failure};
use crate::options::BlobOptions;
use crate::place::BlobPlace;
use crate::runtime::BlobRuntime;
use crate::sas::Sas;
use crate::store::{BlobStore, Settings};

/// The two stores of a vault, which share one runtime and its connections.
#[derive(Clone, Debug)]
pub struct BlobStores {
    /// What is written once.
    pub data: SharedStore,
    /// What changes while a backup is made.
    pub runs: SharedStore,
}

impl BlobPlace {
    /// Makes the stores. The URL's signature is used, else that of the options, else `credential`.
    /// Sends nothing unless containers are to be made; whether they are there shows at the first
    /// use ([`StoreErrorKind::NoSuchPlace`]).
    pub fn open(
        &self,
        credential: Option<Arc<dyn TokenCredential>>,
        options: &BlobOptions,
    ) -> Result<BlobStores, StoreError> {
        let shared = Shared::new(self, credential, options)
            .map_err(|error| self.open_error(StoreErrorKind::Other, error))?;
        let data_sas = self.sas.as_ref().or(options.sas.as_ref());
        let data = self.store(&shared, self.container(), data_sas, options)?;
        let runs = if self.runs_container() == self.container() {
            Arc::clone(&data)
        } else {
            let sas = options.runs_sas.as_ref().or(data_sas);
            self.store(&shared, self.runs_container(), sas, options)?
        };
        if options.create_containers {
            create_container(&data)?;
            create_container(&runs)?;
        }
        Ok(BlobStores { data, runs })
    }

    pub(crate) fn store(
        &self,
        shared: &Shared,
        container: &str,
        sas: Option<&Sas>,
        options: &BlobOptions,
    ) -> Result<Arc<BlobStore>, StoreError> {
        let refused = |kind, text: &str| Err(self.open_error(kind, BlobError::new(text)));
        if sas.is_none() && shared.credential.is_none() {
            return refused(
                StoreErrorKind::PermissionDenied,
                "there is neither a shared access signature nor an identity; append one to the URL \
                 (CONTAINER?sv=...&sig=...), set AZURE_STORAGE_SAS_TOKEN, or give flexkeep a managed \
                 identity or `az login`",
            );
        }
        if sas.is_none() && !self.is_https() {
            return refused(
                StoreErrorKind::PermissionDenied,
                "a token goes over https only; use https, or a shared access signature",
            );
        }
        let location = self.location(container);
        let url = match sas {
            Some(sas) => format!("{location}?{}", sas.query()),
            None => location.clone(),
        };
        let Ok(url) = Url::parse(&url) else {
            return refused(StoreErrorKind::Other, "the signature makes no URL");
        };
        let credential = shared.credential.clone().filter(|_| sas.is_none());
        let client = BlobContainerClient::new(
            url,
            credential,
            Some(BlobContainerClientOptions {
                client_options: shared.client_options(),
                ..Default::default()
            }),
        )
        .map_err(|error| {
            self.open_error(StoreErrorKind::Other, Failure::of(&error).into_error())
        })?;
        Ok(Arc::new(BlobStore {
            container: Arc::new(Container { client, limits: options.retry.clone() }),
            runtime: Arc::clone(&shared.runtime),
            upload: options.upload.clone(),
            settings: Settings {
                account: self.account().to_owned(),
                name: container.to_owned(),
                location,
                has_token: sas.is_none(),
                tier: self.tier,
                tags: self.tags.header(),
            },
        }))
    }

    pub(crate) fn open_error(&self, kind: StoreErrorKind, error: BlobError) -> StoreError {
        StoreError {
            operation: "open",
            object: self.container().to_owned(),
            location: self.to_string(),
            kind,
            source: Some(Box::new(error)),
        }
    }
}

/// What both stores use.
pub(crate) struct Shared {
    runtime: Arc<BlobRuntime>,
    http: reqwest::Client,
    credential: Option<Arc<dyn TokenCredential>>,
}

impl Shared {
    pub(crate) fn new(
        place: &BlobPlace,
        credential: Option<Arc<dyn TokenCredential>>,
        options: &BlobOptions,
    ) -> Result<Self, BlobError> {
        let runtime = BlobRuntime::start()
            .map_err(|error| BlobError::new(format!("cannot start threads: {error}")))?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(20))
            .tcp_keepalive(Duration::from_secs(30))
            .pool_idle_timeout(Duration::from_secs(60))
            // A redirect would carry the signature or the token somewhere else.
            .redirect(reqwest::redirect::Policy::none())
            // Ranges and lengths are those of the bytes as they are stored.
            .no_gzip()
            .no_deflate();
        if place.is_loopback() {
            builder = builder.no_proxy();
        }
        if let Some(pem) = &options.trusted_pem {
            let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .map_err(|_| BlobError::new("the certificates to trust are not PEM"))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder
            .build()
            .map_err(|error| BlobError::new(format!("cannot set up TLS: {error}")))?;
        Ok(Self { runtime, http, credential })
    }

    fn client_options(&self) -> ClientOptions {
        ClientOptions {
            per_try_policies: vec![Arc::new(ChecksumPolicy)],
            // Ours is the only layer of retries: it knows which answers may have been lost.
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(self.http.clone()))),
            ..Default::default()
        }
    }
}

/// Makes the container unless it is there.
pub(crate) fn create_container(store: &Arc<BlobStore>) -> Result<(), StoreError> {
    let container = Arc::clone(&store.container);
    let result = store.runtime.wait(async move {
        // An identity that may use it may not be allowed to make one.
        match container.page("", None, Some(1)).await {
            Err(failure) if failure.kind() == StoreErrorKind::NoSuchPlace => {
                Ok(container.create().await.map_err(|failure| (true, failure)))
            }
            result => Ok(result.map(drop).map_err(|failure| (false, failure))),
        }
    });
    let settings = &store.settings;
    match result.unwrap_or_else(|failure| Err((false, failure))) {
        Ok(()) => Ok(()),
        // It is not there and we may not make it: the advice is how to.
        Err((true, failure)) if failure.kind() == StoreErrorKind::PermissionDenied => {
            let kind = StoreErrorKind::NoSuchPlace;
            Err(settings.error("open", &settings.name, kind, failure.into_error()))
        }
        Err((_, failure)) => Err(settings.failed("open", &settings.name, failure)),
    }
}
