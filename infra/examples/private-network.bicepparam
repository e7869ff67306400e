// For servers with private access: the app's traffic leaves through a subnet of a network that is
// there, and vault, host storage and queues are reached by private endpoints only. Premium is the
// price of the last of these; with Standard the namespace stays reachable with a token.
using '../main.bicep'

param environmentName = 'private'
param location = 'westeurope'
param alertEmail = 'dba@example.com'

param network = 'existing'
param appSubnetId = '/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg-network/providers/Microsoft.Network/virtualNetworks/vnet-data/subnets/flexkeep-app'
param endpointSubnetId = '/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg-network/providers/Microsoft.Network/virtualNetworks/vnet-data/subnets/endpoints'
param dnsZoneIds = {
  blob: '/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg-dns/providers/Microsoft.Network/privateDnsZones/privatelink.blob.core.windows.net'
}
param serviceBusSku = 'Premium'
param vaultSku = 'Standard_ZRS'

// The variables that the policy names. A password is a reference to a secret, never the secret.
param extraAppSettings = {
  SHOP_PASSWORD: '@Microsoft.KeyVault(SecretUri=https://kv-example.vault.azure.net/secrets/shop-backup)'
}
