//! Which identity the environment gives.

use std::fs;
use std::sync::Arc;

use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::{ClientOptions, RetryOptions};
use azure_identity::{
    AzureCliCredential, AzureDeveloperCliCredential, ClientAssertionCredentialOptions,
    ClientSecretCredential, ClientSecretCredentialOptions, DeveloperToolsCredential,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};

use crate::error::IdentityError;
use crate::redact::redacted;

const TENANT: &str = "AZURE_TENANT_ID";
const CLIENT: &str = "AZURE_CLIENT_ID";
const SECRET: &str = "AZURE_CLIENT_SECRET";
const CERTIFICATE: &str = "AZURE_CLIENT_CERTIFICATE_PATH";
const FEDERATED: &str = "AZURE_FEDERATED_TOKEN_FILE";
const CHOICE: &str = "AZURE_TOKEN_CREDENTIALS";
const ENDPOINT: &str = "IDENTITY_ENDPOINT";
const HEADER: &str = "IDENTITY_HEADER";

/// Variables whose values must never be shown.
pub(crate) const SECRET_VARIABLES: [&str; 3] = [SECRET, HEADER, "MSI_SECRET"];

/// By this tag a virtual machine knows that it is one of Azure's.
const AZURE_ASSET_TAG: &str = "7783-7084-3265-9085-8269-3286-77";
const ASSET_TAG_FILE: &str = "/sys/class/dmi/id/chassis_asset_tag";

/// A kind of identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// That of an App Service, a function app, a container app or a virtual machine.
    ManagedIdentity,
    /// That of a pod, by a federated token.
    WorkloadIdentity,
    /// That of an application, by its secret.
    ClientSecret,
    /// The developer's: `az login`, else `azd auth login`.
    DeveloperTools,
    /// `az login` alone.
    AzureCli,
    /// `azd auth login` alone.
    AzureDeveloperCli,
}

impl Kind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Kind::ManagedIdentity => "the managed identity",
            Kind::WorkloadIdentity => "the workload identity",
            Kind::ClientSecret => "the application of AZURE_CLIENT_ID",
            Kind::DeveloperTools => "the developer tools (az, azd)",
            Kind::AzureCli => "the Azure CLI (az)",
            Kind::AzureDeveloperCli => "the Azure Developer CLI (azd)",
        }
    }

    /// What to do when it gives no token.
    pub(crate) fn way_out(self) -> &'static str {
        match self {
            Kind::ManagedIdentity => {
                "see that the app has an identity: turn its system-assigned one on, or name its \
                 user-assigned one by AZURE_CLIENT_ID"
            }
            Kind::WorkloadIdentity => {
                "compare AZURE_CLIENT_ID, AZURE_TENANT_ID and the federated credential of the \
                 identity"
            }
            Kind::ClientSecret => {
                "compare AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET with the \
                 application; its secret may have expired"
            }
            Kind::DeveloperTools | Kind::AzureCli => {
                "run `az login`; on Azure give the app a managed identity, and on a machine where \
                 that is not found set AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential"
            }
            Kind::AzureDeveloperCli => "run `azd auth login`",
        }
    }
}

/// An identity, ready for clients of Azure services.
#[derive(Clone, Debug)]
pub struct Credential {
    /// What it is.
    pub kind: Kind,
    /// What gives its tokens. It tries once; who asks it repeats.
    pub credential: Arc<dyn TokenCredential>,
}

/// The identity that the environment gives.
///
/// `AZURE_TOKEN_CREDENTIALS` chooses, with the words of the other Azure SDKs. Else the first of
/// these: an application with `AZURE_CLIENT_SECRET`; a workload with
/// `AZURE_FEDERATED_TOKEN_FILE`; the managed identity where there is one (`IDENTITY_ENDPOINT`, or
/// a virtual machine of Azure), the user-assigned one of `AZURE_CLIENT_ID` or else the
/// system-assigned one; the developer's tools. Nothing is asked over the network here.
///
/// `env` decides; what the Azure library reads itself (`IDENTITY_ENDPOINT`,
/// `AZURE_AUTHORITY_HOST`, `PATH`) it reads from the process.
///
/// # Errors
/// A variable that is wrong, or missing beside another one.
pub fn credential(env: &dyn Fn(&str) -> Option<String>) -> Result<Credential, IdentityError> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let kind = choose(&env, is_azure_machine)?;
    let made = make(kind, &env);
    let secrets: Vec<String> = SECRET_VARIABLES.iter().filter_map(|name| env(name)).collect();
    let credential = made.map_err(|error| IdentityError::Unusable {
        kind: kind.name(),
        why: redacted(&error.to_string(), &secrets),
    })?;
    tracing::debug!("tokens come from {}", kind.name());
    Ok(Credential { kind, credential })
}

fn choose(
    env: &dyn Fn(&str) -> Option<String>,
    on_azure_machine: impl Fn() -> bool,
) -> Result<Kind, IdentityError> {
    let chosen = env(CHOICE).map(|choice| choice.to_ascii_lowercase());
    match chosen.as_deref() {
        None => {}
        Some("prod") => {
            return Ok(of_deployment(env)?.unwrap_or(Kind::ManagedIdentity));
        }
        Some("dev") => return Ok(Kind::DeveloperTools),
        Some("azureclicredential") => return Ok(Kind::AzureCli),
        Some("azuredeveloperclicredential") => return Ok(Kind::AzureDeveloperCli),
        Some("managedidentitycredential") => return Ok(Kind::ManagedIdentity),
        Some("environmentcredential") => {
            let needs = "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET";
            let there = application(env)?;
            return there.ok_or(IdentityError::NotThere { chosen: "EnvironmentCredential", needs });
        }
        Some("workloadidentitycredential") => {
            let needs = "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE";
            let chosen = "WorkloadIdentityCredential";
            return workload(env)?.ok_or(IdentityError::NotThere { chosen, needs });
        }
        Some(_) => return Err(IdentityError::UnknownChoice(env(CHOICE).unwrap_or_default())),
    }
    Ok(match of_deployment(env)? {
        Some(kind) => kind,
        None if on_azure_machine() => Kind::ManagedIdentity,
        None => Kind::DeveloperTools,
    })
}

/// What variables say that only a deployment has.
fn of_deployment(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Kind>, IdentityError> {
    if let Some(kind) = application(env)? {
        return Ok(Some(kind));
    }
    if let Some(kind) = workload(env)? {
        return Ok(Some(kind));
    }
    if env(ENDPOINT).is_none() {
        return Ok(env("MSI_ENDPOINT").map(|_| Kind::ManagedIdentity));
    }
    if env(HEADER).is_none() && env("IMDS_ENDPOINT").is_none() {
        return Err(IdentityError::Incomplete { present: ENDPOINT, missing: HEADER });
    }
    Ok(Some(Kind::ManagedIdentity))
}

fn application(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Kind>, IdentityError> {
    if env(SECRET).is_none() {
        let certificate = env(CERTIFICATE).is_some() && env(FEDERATED).is_none();
        return if certificate { Err(IdentityError::Certificate) } else { Ok(None) };
    }
    both(env, SECRET)?;
    Ok(Some(Kind::ClientSecret))
}

fn workload(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Kind>, IdentityError> {
    if env(FEDERATED).is_none() {
        return Ok(None);
    }
    both(env, FEDERATED)?;
    Ok(Some(Kind::WorkloadIdentity))
}

/// An application is named by both of its ids.
fn both(env: &dyn Fn(&str) -> Option<String>, present: &'static str) -> Result<(), IdentityError> {
    for missing in [TENANT, CLIENT] {
        if env(missing).is_none() {
            return Err(IdentityError::Incomplete { present, missing });
        }
    }
    Ok(())
}

fn make(
    kind: Kind,
    env: &dyn Fn(&str) -> Option<String>,
) -> azure_core::Result<Arc<dyn TokenCredential>> {
    let get = |name: &str| env(name).unwrap_or_default();
    // Attempts are counted and bounded where tokens are asked for.
    let client_options = ClientOptions { retry: RetryOptions::none(), ..ClientOptions::default() };
    Ok(match kind {
        Kind::ManagedIdentity => {
            let user_assigned_id = env(CLIENT).map(UserAssignedId::ClientId);
            let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options };
            ManagedIdentityCredential::new(Some(options))?
        }
        Kind::WorkloadIdentity => {
            let credential_options = ClientAssertionCredentialOptions { client_options };
            WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                credential_options,
                client_id: env(CLIENT),
                tenant_id: env(TENANT),
                token_file_path: env(FEDERATED).map(Into::into),
            }))?
        }
        Kind::ClientSecret => {
            let options = ClientSecretCredentialOptions { client_options };
            let secret = Secret::new(get(SECRET));
            ClientSecretCredential::new(&get(TENANT), get(CLIENT), secret, Some(options))?
        }
        Kind::DeveloperTools => DeveloperToolsCredential::new(None)?,
        Kind::AzureCli => AzureCliCredential::new(None)?,
        Kind::AzureDeveloperCli => AzureDeveloperCliCredential::new(None)?,
    })
}

fn is_azure_machine() -> bool {
    fs::read_to_string(ASSET_TAG_FILE).is_ok_and(|tag| tag.trim() == AZURE_ASSET_TAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(set: &[(&str, &str)], machine: bool) -> Result<Kind, String> {
        let env = |name: &str| {
            set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
        };
        choose(&env, || machine).map_err(|error| error.to_string())
    }

    const IDS: [(&str, &str); 2] = [(TENANT, "t"), (CLIENT, "c")];
    const APP: [(&str, &str); 2] = [(ENDPOINT, "http://127.0.0.1/"), (HEADER, "h")];

    #[test]
    fn the_environment_decides_in_the_order_of_the_azure_sdks() {
        let with = |more: &[(&'static str, &'static str)]| [&IDS[..], more].concat();
        for (set, machine, kind) in [
            (vec![], false, Kind::DeveloperTools),
            (vec![], true, Kind::ManagedIdentity),
            (APP.to_vec(), false, Kind::ManagedIdentity),
            (with(&APP), false, Kind::ManagedIdentity),
            (with(&[(FEDERATED, "/f"), APP[0], APP[1]]), false, Kind::WorkloadIdentity),
            (with(&[(SECRET, "s"), (FEDERATED, "/f")]), true, Kind::ClientSecret),
            (vec![(CHOICE, "prod")], false, Kind::ManagedIdentity),
            (with(&[(CHOICE, "prod"), (SECRET, "s")]), false, Kind::ClientSecret),
            (vec![(CHOICE, "dev"), APP[0], APP[1]], true, Kind::DeveloperTools),
            (vec![(CHOICE, "AzureCliCredential"), APP[0]], true, Kind::AzureCli),
            (with(&[(CHOICE, "managedidentitycredential"), (SECRET, "s")]), false, {
                Kind::ManagedIdentity
            }),
        ] {
            assert_eq!(choice(&set, machine), Ok(kind), "{set:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_no_secret_is() {
        for (set, said) in [
            (vec![(SECRET, "hunter2")], "AZURE_TENANT_ID"),
            (vec![(SECRET, "hunter2"), (TENANT, "t")], "AZURE_CLIENT_ID"),
            (vec![(FEDERATED, "/f")], "AZURE_TENANT_ID"),
            (vec![(ENDPOINT, "http://x")], "IDENTITY_HEADER"),
            (vec![(CERTIFICATE, "/c")], "not supported"),
            (vec![(CHOICE, "magic")], "\"magic\" is not known"),
            (vec![(CHOICE, "EnvironmentCredential")], "AZURE_CLIENT_SECRET"),
            (vec![(CHOICE, "WorkloadIdentityCredential")], "AZURE_FEDERATED_TOKEN_FILE"),
        ] {
            let message = choice(&set, false).expect_err(said);
            assert!(message.contains(said) && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_credential_is_made_without_the_network() {
        let env = |name: &str| match name {
            TENANT | CLIENT => Some("6a2b1f1e-0000-4a6c-9b5e-0123456789ab".to_owned()),
            SECRET => Some("hunter2".to_owned()),
            _ => None,
        };
        let made = credential(&env).expect("all is there");
        assert_eq!(made.kind, Kind::ClientSecret);
        assert!(!format!("{made:?}").contains("hunter2"));
        let bad =
            |name: &str| env(name).map(|value| if name == TENANT { "a/b".into() } else { value });
        let message = credential(&bad).expect_err("no tenant").to_string();
        assert!(message.contains("AZURE_CLIENT_ID cannot be used"), "{message}");
    }
}
