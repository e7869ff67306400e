// The vault: one account with two containers. `vault` is write-once, `runs` changes during a backup
// and has nothing that a restore needs.

@description('Name of the account.')
param accountName string

@description('Its region.')
param location string

@description('Its tags.')
param tags object

@description('Object id of the app\'s identity.')
param principalId string

@description('Redundancy.')
@allowed(['Standard_LRS', 'Standard_ZRS', 'Standard_GRS', 'Standard_RAGRS', 'Standard_GZRS', 'Standard_RAGZRS'])
param sku string

@description('How long deleted blobs, containers and what they were before can be brought back, days.')
param softDeleteDays int

@description('When chunks move to the cool tier, days after they were written; 0 never.')
param coolAfterDays int

@description('off, unlocked or locked.')
@allowed(['off', 'unlocked', 'locked'])
param immutability string

@description('Whether the immutability policy is locked already, and left alone.')
param policyIsLocked bool

@description('Days of the immutability policy.')
param immutabilityDays int

@description('Access tier of chunks; empty for that of the account.')
@allowed(['', 'Hot', 'Cool', 'Cold'])
param tier string

@description('Index tags of manifests.')
param indexTags object

@description('A second encryption below the first.')
param infrastructureEncryption bool

@description('Key vault of a key of your own; empty for keys of the platform.')
param keyVaultUri string

@description('Name of that key.')
param keyName string

@description('Identity that may use that key.')
param keyIdentityId string

@description('Whether to make roles that give exactly what is needed.')
param customRoles bool

@description('Whether it can be reached from the internet, with a token.')
param publicAccess bool

var containerName = 'vault'
var runsContainerName = 'runs'
var ownKey = !empty(keyVaultUri)
// https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
var blobDataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
var blobDataOwner = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
var writerRoleId = guid(resourceGroup().id, accountName, 'flexkeep vault writer')
var runsRoleId = guid(resourceGroup().id, accountName, 'flexkeep runs keeper')
var blobData = 'Microsoft.Storage/storageAccounts/blobServices/containers/blobs'
var writerActions = ['${blobData}/read', '${blobData}/write', '${blobData}/add/action']
var tagActions = ['${blobData}/tags/write']
// Of the built-in roles for blobs only the owner's may set tags.
var builtInWriter = empty(indexTags) ? blobDataContributor : blobDataOwner

resource account 'Microsoft.Storage/storageAccounts@2024-01-01' = {
  name: accountName
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: sku }
  identity: ownKey
    ? { type: 'UserAssigned', userAssignedIdentities: { '${keyIdentityId}': {} } }
    : { type: 'None' }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowSharedKeyAccess: false
    allowCrossTenantReplication: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
    networkAcls: {
      bypass: 'None'
      defaultAction: publicAccess ? 'Allow' : 'Deny'
    }
    encryption: {
      keySource: ownKey ? 'Microsoft.Keyvault' : 'Microsoft.Storage'
      requireInfrastructureEncryption: infrastructureEncryption
      services: { blob: { enabled: true, keyType: 'Account' } }
      keyvaultproperties: ownKey ? { keyvaulturi: keyVaultUri, keyname: keyName } : null
      identity: ownKey ? { userAssignedIdentity: keyIdentityId } : null
    }
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2024-01-01' = {
  parent: account
  name: 'default'
  properties: {
    isVersioningEnabled: true
    deleteRetentionPolicy: { enabled: true, days: softDeleteDays }
    containerDeleteRetentionPolicy: { enabled: true, days: softDeleteDays }
  }
}

resource container 'Microsoft.Storage/storageAccounts/blobServices/containers@2024-01-01' = {
  parent: blobs
  name: containerName
  properties: { publicAccess: 'None' }
}

resource runs 'Microsoft.Storage/storageAccounts/blobServices/containers@2024-01-01' = {
  parent: blobs
  name: runsContainerName
  properties: { publicAccess: 'None' }
}

// At the level of the container: nothing in it is overwritten or deleted. (At the level of versions
// an overwrite would make a new version, and a delete would hide a blob.) It is written unlocked also
// where it is to be locked: there has to be one. A locked one cannot be written again.
resource policy 'Microsoft.Storage/storageAccounts/blobServices/containers/immutabilityPolicies@2024-01-01' = if (immutability != 'off' && !policyIsLocked) {
  parent: container
  name: 'default'
  properties: {
    immutabilityPeriodSinceCreationInDays: immutabilityDays
    allowProtectedAppendWrites: false
    allowProtectedAppendWritesAll: false
  }
}

// Versioning holds for the whole account: what runs were before is of no use, and would pile up.
var runsRule = {
  name: 'forget-former-runs'
  enabled: true
  type: 'Lifecycle'
  definition: {
    filters: { blobTypes: ['blockBlob'], prefixMatch: ['${runsContainerName}/'] }
    actions: { version: { delete: { daysAfterCreationGreaterThan: 1 } } }
  }
}

// Only chunks: what lists them is small and read often.
var coolRule = {
  name: 'cool-chunks'
  enabled: true
  type: 'Lifecycle'
  definition: {
    filters: { blobTypes: ['blockBlob'], prefixMatch: ['${containerName}/chunks/'] }
    actions: { baseBlob: { tierToCool: { daysAfterModificationGreaterThan: coolAfterDays } } }
  }
}

resource lifecycle 'Microsoft.Storage/storageAccounts/managementPolicies@2024-01-01' = {
  parent: account
  name: 'default'
  properties: {
    policy: { rules: coolAfterDays > 0 ? [runsRule, coolRule] : [runsRule] }
  }
  dependsOn: [
    blobs
  ]
}

// Without the right to delete, also of versions, and without that to delete the container, which
// Storage Blob Data Contributor includes: who takes over the app cannot take the backups away.
resource writerRole 'Microsoft.Authorization/roleDefinitions@2022-04-01' = if (customRoles) {
  name: writerRoleId
  properties: {
    roleName: 'flexkeep vault writer (${accountName})'
    description: 'Reads blobs and writes new ones; deletes nothing.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: []
        notActions: []
        dataActions: empty(indexTags) ? writerActions : concat(writerActions, tagActions)
        notDataActions: []
      }
    ]
  }
}

resource runsRole 'Microsoft.Authorization/roleDefinitions@2022-04-01' = if (customRoles) {
  name: runsRoleId
  properties: {
    roleName: 'flexkeep runs keeper (${accountName})'
    description: 'Reads, writes and deletes blobs; leaves the container alone.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: []
        notActions: []
        dataActions: ['${blobData}/read', '${blobData}/write', '${blobData}/add/action', '${blobData}/delete']
        notDataActions: []
      }
    ]
  }
}

resource writer 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(container.id, principalId, customRoles ? writerRoleId : builtInWriter)
  scope: container
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: customRoles
      ? writerRole.id
      : subscriptionResourceId('Microsoft.Authorization/roleDefinitions', builtInWriter)
    description: 'flexkeep: chunks and manifests'
  }
}

resource keeper 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(runs.id, principalId, customRoles ? runsRoleId : blobDataContributor)
  scope: runs
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: customRoles
      ? runsRole.id
      : subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataContributor)
    description: 'flexkeep: runs at work and what schedules remember'
  }
}

@description('Resource id of the account.')
output accountId string = account.id

@description('Name of the account.')
output accountName string = account.name

var tierParameter = empty(tier) ? '' : '&tier=${tier}'
var tagPairs = map(items(indexTags), tag => '${uriComponent(tag.key)}:${uriComponent(tag.value)}')
var tagParameter = empty(indexTags) ? '' : '&tags=${join(tagPairs, ',')}'

@description('The vault, as flexkeep takes it.')
output url string = '${account.properties.primaryEndpoints.blob}${containerName}?runs=${runsContainerName}${tierParameter}${tagParameter}'
