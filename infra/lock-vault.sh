#!/bin/bash
# lock-vault.sh: locks the write-once policy of the vault, which Bicep cannot do. `azd provision` runs
# it each time; it does something only where FLEXKEEP_VAULT_IMMUTABILITY is `locked` and the policy is
# not locked yet. Then it takes note for the template (with azd; else it says so). It takes what the
# deployment put out:
#   FLEXKEEP_VAULT_IMMUTABILITY, FLEXKEEP_VAULT_SUBSCRIPTION, FLEXKEEP_VAULT_GROUP, FLEXKEEP_VAULT_ACCOUNT
# and FLEXKEEP_VAULT_LOCK, the name of the account once more, as this cannot be undone.
set -euo pipefail
die() { printf 'lock-vault: %s\n' "$*" >&2; exit 1; }

[ "${FLEXKEEP_VAULT_IMMUTABILITY:-off}" = locked ] || exit 0
for name in FLEXKEEP_VAULT_SUBSCRIPTION FLEXKEEP_VAULT_GROUP FLEXKEEP_VAULT_ACCOUNT; do
  [ -n "${!name:-}" ] || die "$name is not set; it is an output of the deployment"
done
command -v az >/dev/null || die "the Azure CLI (az) is not there"
policy() {
  az storage container immutability-policy "$1" --subscription "$FLEXKEEP_VAULT_SUBSCRIPTION" \
    --resource-group "$FLEXKEEP_VAULT_GROUP" --account-name "$FLEXKEEP_VAULT_ACCOUNT" \
    --container-name vault "${@:2}"
}

found=$(policy show --query '[state, to_string(immutabilityPeriodSinceCreationInDays), etag]' --output tsv)
read -r state days etag <<<"$(tr '\n' ' ' <<<"$found")"
if ! [ "${days:-0}" -ge 1 ] 2>/dev/null || [ -z "${etag:-}" ]; then
  die "the container vault of $FLEXKEEP_VAULT_ACCOUNT has no policy to lock; deploy with vaultPolicyIsLocked = false, which makes one"
fi
# From now on the template must leave the policy alone: it cannot be written any more.
remember() {
  [ "${FLEXKEEP_VAULT_POLICY_IS_LOCKED:-}" != true ] || return 0
  if [ -n "${AZURE_ENV_NAME:-}" ] && command -v azd >/dev/null; then
    azd env set FLEXKEEP_VAULT_POLICY_IS_LOCKED true --environment "$AZURE_ENV_NAME" ||
      die "the policy is locked, but azd does not take note; azd env set FLEXKEEP_VAULT_POLICY_IS_LOCKED true"
  else
    printf 'lock-vault: from now on deploy with the parameter vaultPolicyIsLocked = true\n'
  fi
}
case $state in
Locked)
  printf 'lock-vault: the policy of %s is locked: %s days\n' "$FLEXKEEP_VAULT_ACCOUNT" "$days"
  remember
  exit 0
  ;;
Unlocked) ;;
*) die "the policy of $FLEXKEEP_VAULT_ACCOUNT is in a state that this program does not know: $state" ;;
esac
if [ "${FLEXKEEP_VAULT_LOCK:-}" != "$FLEXKEEP_VAULT_ACCOUNT" ]; then
  die "the policy of $FLEXKEEP_VAULT_ACCOUNT is NOT locked.
Locking it cannot be undone: for $days days from when it was written nothing in the container vault
can be changed or deleted, by nobody; the account cannot be deleted, and all of it has to be paid for.
To lock it, set FLEXKEEP_VAULT_LOCK=$FLEXKEEP_VAULT_ACCOUNT (azd env set ...) and run this again."
fi
policy lock --if-match "$etag" --output none
printf 'lock-vault: the policy of %s is locked now: %s days\n' "$FLEXKEEP_VAULT_ACCOUNT" "$days"
remember
