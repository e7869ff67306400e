// What `azd up` deploys: values of the azd environment (azd env set NAME VALUE), or else the
// cheapest start. The examples in examples/ are for `az deployment sub create`.
using 'main.bicep'

var name = readEnvironmentVariable('AZURE_ENV_NAME')
var region = readEnvironmentVariable('AZURE_LOCATION')
var subscriptionId = readEnvironmentVariable('AZURE_SUBSCRIPTION_ID')
var vaultSubscription = readEnvironmentVariable('FLEXKEEP_VAULT_SUBSCRIPTION', '')
var vaultGroup = readEnvironmentVariable('FLEXKEEP_VAULT_GROUP', '')
var vaultRegion = readEnvironmentVariable('FLEXKEEP_VAULT_LOCATION', '')

param environmentName = name
param location = region

param alertEmail = readEnvironmentVariable('FLEXKEEP_ALERT_EMAIL', '')
param tick = readEnvironmentVariable('FLEXKEEP_TICK', '0 */5 * * * *')
// A JSON object; secrets as references to a key vault.
param extraAppSettings = json(readEnvironmentVariable('FLEXKEEP_APP_SETTINGS', '{}'))
param instanceMemoryMB = int(readEnvironmentVariable('FLEXKEEP_MEMORY_MB', '2048'))

param vaultSubscriptionId = empty(vaultSubscription) ? subscriptionId : vaultSubscription
param vaultResourceGroupName = empty(vaultGroup) ? 'rg-flexkeep-${name}' : vaultGroup
param vaultLocation = empty(vaultRegion) ? region : vaultRegion
param vaultSku = readEnvironmentVariable('FLEXKEEP_VAULT_SKU', 'Standard_LRS')
param vaultImmutability = readEnvironmentVariable('FLEXKEEP_VAULT_IMMUTABILITY', 'off')
// infra/lock-vault.sh sets it when it has locked the policy.
param vaultPolicyIsLocked = bool(readEnvironmentVariable('FLEXKEEP_VAULT_POLICY_IS_LOCKED', 'false'))
param vaultImmutabilityDays = int(readEnvironmentVariable('FLEXKEEP_VAULT_IMMUTABILITY_DAYS', '35'))
param vaultCoolAfterDays = int(readEnvironmentVariable('FLEXKEEP_VAULT_COOL_AFTER_DAYS', '30'))

param vaultTier = readEnvironmentVariable('FLEXKEEP_VAULT_TIER', '')
// A JSON object.
param vaultIndexTags = json(readEnvironmentVariable('FLEXKEEP_VAULT_TAGS', '{}'))

param network = readEnvironmentVariable('FLEXKEEP_NETWORK', 'public')
param serviceBusSku = readEnvironmentVariable('FLEXKEEP_BUS_SKU', 'Standard')
