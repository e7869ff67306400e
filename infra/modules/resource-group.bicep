// The vault's resource group, in whatever subscription it is.
targetScope = 'subscription'

@description('Whether to make it.')
param create bool

@description('Its name.')
param name string

@description('Its region.')
param location string

@description('Its tags.')
param tags object

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = if (create) {
  name: name
  location: location
  tags: tags
}
