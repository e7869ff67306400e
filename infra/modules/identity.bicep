// The one identity of the app: for its storage, its vault, the queues, logs, and PostgreSQL.
// User-assigned, so that its rights and its name in PostgreSQL survive the app.

@description('Name of the identity, and of its user in PostgreSQL.')
param name string

@description('Its region.')
param location string

@description('Its tags.')
param tags object

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: name
  location: location
  tags: tags
}

@description('Its resource id.')
output id string = identity.id

@description('Its name.')
output name string = identity.name

@description('Its client id, by which programs choose it.')
output clientId string = identity.properties.clientId

@description('Its object id, which rights are given to.')
output principalId string = identity.properties.principalId
