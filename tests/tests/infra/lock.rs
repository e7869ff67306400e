//! infra/lock-vault.sh: locks only what is to be locked, after it was confirmed. Azure's CLI is
//! played by a script that answers as told and writes down what it was asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use flexkeep_tests::{Output, run};

use super::{LIMIT, root};

const AZ: &str = r#"#!/bin/bash
printf '%s\n' "$*" >>"$ASKED"
case " $* " in
*" immutability-policy show "*) [ -z "$FAIL" ] || exit 1; printf "$ANSWER" ;;
*" immutability-policy lock "*) ;;
*) exit 9 ;;
esac
"#;

const AZD: &str = "#!/bin/bash\nprintf 'azd %s\\n' \"$*\" >>\"$ASKED\"\n";

/// How it ended, and the calls of `az` and `azd`.
fn lock(answer: &str, variables: &[(&str, &str)]) -> (Output, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let asked = folder.path().join("asked");
    for (name, script) in [("az", AZ), ("azd", AZD)] {
        let path = folder.path().join(name);
        fs::write(&path, script).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("an executable");
    }
    fs::write(&asked, "").expect("a file");
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let mut command = Command::new(root().join("infra/lock-vault.sh"));
    command.env_clear().env("PATH", path).env("ASKED", &asked).env("ANSWER", answer);
    let output = run(command.envs(variables.iter().copied()), LIMIT);
    let asked = fs::read_to_string(&asked).expect("what was asked");
    (output, asked.lines().map(str::to_owned).collect())
}

const DEPLOYED: [(&str, &str); 4] = [
    ("FLEXKEEP_VAULT_IMMUTABILITY", "locked"),
    ("FLEXKEEP_VAULT_SUBSCRIPTION", "sub"),
    ("FLEXKEEP_VAULT_GROUP", "group"),
    ("FLEXKEEP_VAULT_ACCOUNT", "fkvault1"),
];
const CONFIRMED: (&str, &str) = ("FLEXKEEP_VAULT_LOCK", "fkvault1");

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    DEPLOYED.iter().chain(more).copied().collect()
}

#[test]
fn nothing_is_asked_where_nothing_is_to_be_locked() {
    for mode in ["off", "unlocked", ""] {
        let (output, asked) = lock("", &[("FLEXKEEP_VAULT_IMMUTABILITY", mode), CONFIRMED]);
        output.expect_success();
        assert_eq!(asked, Vec::<String>::new(), "{mode}");
    }
}

#[test]
fn a_policy_is_locked_only_when_the_account_is_named_once_more() {
    let unlocked = "Unlocked\n400\n\"8d59f825b721dd3\"\n";
    for more in [vec![], vec![("FLEXKEEP_VAULT_LOCK", "yes")]] {
        let (output, asked) = lock(unlocked, &with(&more));
        assert_eq!(output.code(), Some(1));
        let errors = output.errors();
        assert!(errors.contains("cannot be undone: for 400 days"), "{errors}");
        assert!(errors.contains("FLEXKEEP_VAULT_LOCK=fkvault1"), "{errors}");
        assert_eq!(asked.len(), 1, "{asked:?}");
    }
    let (output, asked) = lock(unlocked, &with(&[CONFIRMED]));
    output.expect_success();
    let of =
        "--subscription sub --resource-group group --account-name fkvault1 --container-name vault";
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[0].contains(of), "{asked:?}");
    assert_eq!(
        asked[1],
        format!(
            "storage container immutability-policy lock {of} --if-match \"8d59f825b721dd3\" --output none"
        )
    );
}

#[test]
fn that_it_is_locked_is_noted_for_the_template() {
    let noted = "azd env set FLEXKEEP_VAULT_POLICY_IS_LOCKED true --environment prod";
    let by_azd = ("AZURE_ENV_NAME", "prod");
    for state in ["Locked", "Unlocked"] {
        let answer = format!("{state}\n400\n\"8d\"\n");
        let (output, asked) = lock(&answer, &with(&[CONFIRMED, by_azd]));
        output.expect_success();
        assert_eq!(asked.last().map(String::as_str), Some(noted), "{state}");
        let (output, asked) = lock(&answer, &with(&[CONFIRMED]));
        let text = output.expect_success().text();
        assert!(text.contains("vaultPolicyIsLocked = true"), "{text}");
        assert!(!asked.iter().any(|call| call.starts_with("azd")), "{asked:?}");
    }
    let known = ("FLEXKEEP_VAULT_POLICY_IS_LOCKED", "true");
    let (_, asked) = lock("Locked\n400\n\"8d\"\n", &with(&[by_azd, known]));
    assert_eq!(asked.len(), 1, "{asked:?}");
    // It is not noted before it is so.
    let (_, asked) = lock("Unlocked\n400\n\"8d\"\n", &with(&[by_azd]));
    assert_eq!(asked.len(), 1, "{asked:?}");
}

#[test]
fn what_is_locked_stays_and_what_is_not_there_is_told() {
    let (output, asked) = lock("Locked\n400\n\"8d\"\n", &with(&[]));
    output.expect_success();
    assert_eq!(asked.len(), 1, "{asked:?}");
    for answer in ["", "Unlocked\n0\n\n", "null\nnull\nnull\n", "Melted\n3\n\"e\"\n"] {
        let (output, asked) = lock(answer, &with(&[CONFIRMED]));
        assert_eq!(output.code(), Some(1), "{answer:?}");
        assert!(output.errors().starts_with("lock-vault: the "), "{}", output.errors());
        assert_eq!(asked.len(), 1, "{asked:?}");
    }
    let (output, asked) = lock("", &with(&[CONFIRMED, ("FAIL", "yes")]));
    assert_eq!((output.code(), asked.len()), (Some(1), 1));
    for missing in 1..DEPLOYED.len() {
        let mut some = with(&[CONFIRMED]);
        let (name, _) = some.remove(missing);
        let (output, asked) = lock("", &some);
        assert!(output.errors().contains(name), "{}", output.errors());
        assert_eq!((output.code(), asked.len()), (Some(1), 0));
    }
}
