// A vault that survives the loss of the region and a takeover of the subscription: in another
// subscription, that other people own, in another region, with two copies there, and write-once.
// Whoever deploys this needs Owner on both subscriptions.
using '../main.bicep'

param environmentName = 'prod'
param location = 'westeurope'
param alertEmail = 'dba@example.com'

param vaultSubscriptionId = '11111111-1111-1111-1111-111111111111'
param vaultResourceGroupName = 'rg-backup-vault'
param vaultLocation = 'northeurope'
param vaultSku = 'Standard_ZRS'
param vaultSoftDeleteDays = 30

// unlocked first; docs/deploy.md says what to look at before it is locked.
param vaultImmutability = 'unlocked'
param vaultImmutabilityDays = 400

// A key of your own, in the vault's subscription.
param vaultKeyVaultUri = 'https://kv-example.vault.azure.net'
param vaultKeyName = 'flexkeep-vault'
param vaultKeyIdentityId = '/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg-backup-vault/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-vault-key'

param alwaysReadyInstances = 1
