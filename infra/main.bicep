// flexkeep's function app and all that it needs, from an empty subscription. docs/deploy.md leads
// through it, docs/security.md says which rights are given and why.
targetScope = 'subscription'

// ---- Where, and under which names

@description('Name of this installation. It becomes part of names, so that several can live in one subscription.')
@minLength(1)
@maxLength(32)
param environmentName string

@description('Region of everything but the vault. It has to offer Flex Consumption; best is the region of the servers.')
param location string

@description('Resource group of everything but the vault. It is made if it is not there.')
param resourceGroupName string = 'rg-flexkeep-${environmentName}'

@description('Tags for every resource.')
param tags object = {}

// ---- The app

@description('App setting FLEXKEEP_POLICY: path of the policy file, relative to the root of the package.')
param policyPath string = 'policy.toml'

@description('App setting FLEXKEEP_TICK: when schedules are looked at, as NCRONTAB with six fields, in UTC. With ticks further apart than an hour, raise silenceWindow.')
param tick string = '0 */5 * * * *'

@description('Memory of an instance, MB: 512 has a quarter of a core, 2048 one, 4096 two. An instance works on one, two or four messages at once (lanes of backups, or backups, or restores); extraAppSettings can say otherwise.')
@allowed([512, 2048, 4096])
param instanceMemoryMB int = 2048

@description('At most this many instances of each function at once.')
@minValue(1)
@maxValue(1000)
param maximumInstanceCount int = 40

@description('Instances that always run for the function `backup`. 0 costs nothing while idle; 1 begins without a cold start.')
@minValue(0)
@maxValue(20)
param alwaysReadyInstances int = 0

@description('More app settings, name and value, such as the variables that the policy names, or another value for FLEXKEEP_LANE_SECONDS, FLEXKEEP_PROGRESS_SECONDS, FLEXKEEP_EVENTS and AzureFunctionsJobHost__extensions__serviceBus__maxConcurrentCalls. A value that is secret has to be a reference to a secret, @Microsoft.KeyVault(SecretUri=...), never the secret itself: this ends up in the history of deployments.')
param extraAppSettings object = {}

@description('Whether the HTTP API and the deployment endpoint can be reached from the internet (with keys and Entra tokens). false needs a network, and deployments from inside of it.')
param appPublicAccess bool = true

// ---- The vault

@description('Subscription of the vault. Another one than the app\'s keeps backups out of reach of who owns the app.')
param vaultSubscriptionId string = subscription().subscriptionId

@description('Resource group of the vault. It is made if it is not there; one that is there has to be in vaultLocation. The default is that of the app.')
param vaultResourceGroupName string = resourceGroupName

@description('Region of the vault. Another one than the servers\' survives the loss of a region; traffic between regions is charged.')
param vaultLocation string = location

@description('Redundancy of the vault. LRS survives the loss of a rack, ZRS that of a zone, GRS and GZRS that of the region.')
@allowed(['Standard_LRS', 'Standard_ZRS', 'Standard_GRS', 'Standard_RAGRS', 'Standard_GZRS', 'Standard_RAGZRS'])
param vaultSku string = 'Standard_LRS'

@description('How long deleted or overwritten data of the vault can be brought back, days.')
@minValue(1)
@maxValue(365)
param vaultSoftDeleteDays int = 14

@description('Chunks move to the cool tier this many days after they were written; 0 leaves them in the hot tier. A chunk that an export reads costs more from there.')
@minValue(0)
@maxValue(3650)
param vaultCoolAfterDays int = 30

@description('Write-once protection of the container `vault`. off: none. unlocked: whoever manages the account can still lift it. locked: nobody can, not even Microsoft, until each object\'s days are over; WARNING: this cannot be undone, the account cannot be deleted, and what is stored has to be paid for as long. This template writes the policy; infra/lock-vault.sh locks it, and until it has run the policy is unlocked.')
@allowed(['off', 'unlocked', 'locked'])
param vaultImmutability string = 'off'

@description('Whether the policy is locked already. A locked policy refuses to be written again, so that it is left alone from then on. With azd infra/lock-vault.sh sets it.')
param vaultPolicyIsLocked bool = false

@description('For how many days an object can be neither changed nor deleted, from when it was written. As long as the longest time that a backup is to be kept.')
@minValue(1)
@maxValue(146000)
param vaultImmutabilityDays int = 35

@description('Access tier that chunks are written to; empty for that of the account, hot. Becomes `tier` of the vault.')
@allowed(['', 'Hot', 'Cool', 'Cold'])
param vaultTier string = ''

@description('Index tags that manifests get, key and value, 10 at most. With them the app gets the right to set tags. Becomes `tags` of the vault.')
param vaultIndexTags object = {}

@description('A second encryption of the vault below the first, with another key of the platform. It can be chosen only when the account is made.')
param vaultInfrastructureEncryption bool = false

@description('URI of a key vault, such as https://NAME.vault.azure.net, with soft delete and purge protection, for encryption with a key of your own. Empty: keys of the platform.')
param vaultKeyVaultUri string = ''

@description('Name of the key in that key vault. Its newest version is used.')
param vaultKeyName string = ''

@description('Resource id of a user-assigned identity that has the role Key Vault Crypto Service Encryption User on that key.')
param vaultKeyIdentityId string = ''

@description('Whether to make roles of our own that give exactly what is needed. false takes the nearest built-in roles, which also let the app delete backups, for who may not write role definitions.')
param customRoles bool = true

// ---- The network

@description('public: no network; what is reachable is guarded by identity. new: makes one, with private endpoints. existing: private endpoints in subnets that are there.')
@allowed(['public', 'new', 'existing'])
param network string = 'public'

@description('With new: the address range, /24 or larger, that is not used in networks to be peered.')
param addressPrefix string = '10.84.0.0/24'

@description('With new: a NAT gateway with an address of its own, for servers whose firewall lists addresses. It is charged by the hour.')
param natGateway bool = false

@description('With existing: id of the subnet that the app\'s traffic leaves through. It is delegated to Microsoft.App/environments, has no underscore in its name, and nothing else is in it.')
param appSubnetId string = ''

@description('With existing: id of the subnet for private endpoints.')
param endpointSubnetId string = ''

@description('With existing: ids of private DNS zones that are there already, by blob, table, namespace and sites. Zones that are missing here are made and linked, unless createDnsZones is false.')
param dnsZoneIds object = {}

@description('Whether to make the private DNS zones that are missing. false where a policy registers private endpoints centrally.')
param createDnsZones bool = true

// ---- Service Bus, logs, alerts

@description('Standard is charged by use. Premium is needed for private endpoints, and charged for each messaging unit and hour whether used or not: some hundred euros a month. With a network, Standard keeps the namespace reachable from the internet for who has a token.')
@allowed(['Standard', 'Premium'])
param serviceBusSku string = 'Standard'

@description('How long logs are kept, days.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 30

@description('Logs stop for the day at this many GB; -1 is no limit. Alerts that read logs are blind from then on.')
param logDailyCapGB int = 1

@description('Where alerts are mailed to. Empty: they are shown in the portal only.')
param alertEmail string = ''

@description('An alert fires when no look at the schedules succeeded for as long, ISO 8601.')
@allowed(['PT30M', 'PT1H', 'PT2H', 'PT6H', 'P1D'])
param silenceWindow string = 'PT1H'

// The queues, and the app setting that names each. A new queue is a new line here: it gets the
// setting, the rights and the alert.
var queues = [
  { name: 'backups', setting: 'FLEXKEEP_QUEUE' }
  { name: 'lanes', setting: 'FLEXKEEP_LANES_QUEUE' }
  { name: 'restores', setting: 'FLEXKEEP_RESTORE_QUEUE' }
]

// The topic that events go to, on the same namespace.
var eventsTopic = 'events'

var token = toLower(uniqueString(subscription().id, environmentName, location))
var allTags = union(tags, { 'azd-env-name': environmentName })
var isPrivate = network != 'public'

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: resourceGroupName
  location: location
  tags: allTags
}

// The vault's group may be the app's: then it is there already, and this changes nothing.
module vaultGroup 'modules/resource-group.bicep' = {
  name: 'flexkeep-vault-group-${token}'
  scope: subscription(vaultSubscriptionId)
  params: {
    create: vaultSubscriptionId != subscription().subscriptionId || vaultResourceGroupName != resourceGroupName
    name: vaultResourceGroupName
    location: vaultLocation
    tags: allTags
  }
}

module identity 'modules/identity.bicep' = {
  name: 'flexkeep-identity'
  scope: group
  params: {
    name: 'id-flexkeep-${token}'
    location: location
    tags: allTags
  }
}

module vault 'modules/vault.bicep' = {
  name: 'flexkeep-vault-${token}'
  scope: resourceGroup(vaultSubscriptionId, vaultResourceGroupName)
  params: {
    accountName: 'fkvault${token}'
    location: vaultLocation
    tags: allTags
    principalId: identity.outputs.principalId
    sku: vaultSku
    softDeleteDays: vaultSoftDeleteDays
    coolAfterDays: vaultCoolAfterDays
    immutability: vaultImmutability
    policyIsLocked: vaultPolicyIsLocked
    immutabilityDays: vaultImmutabilityDays
    tier: vaultTier
    indexTags: vaultIndexTags
    infrastructureEncryption: vaultInfrastructureEncryption
    keyVaultUri: vaultKeyVaultUri
    keyName: vaultKeyName
    keyIdentityId: vaultKeyIdentityId
    customRoles: customRoles
    publicAccess: !isPrivate
  }
  dependsOn: [
    group
    vaultGroup
  ]
}

module hostStorage 'modules/host-storage.bicep' = {
  name: 'flexkeep-host-storage'
  scope: group
  params: {
    accountName: 'fkhost${token}'
    location: location
    tags: allTags
    principalId: identity.outputs.principalId
    publicAccess: !isPrivate
  }
}

module bus 'modules/bus.bicep' = {
  name: 'flexkeep-bus'
  scope: group
  params: {
    namespaceName: 'sb-flexkeep-${token}'
    location: location
    tags: allTags
    principalId: identity.outputs.principalId
    sku: serviceBusSku
    queueNames: map(queues, queue => queue.name)
    topicName: eventsTopic
    customRoles: customRoles
    publicAccess: !isPrivate || serviceBusSku != 'Premium'
  }
}

module monitor 'modules/monitor.bicep' = {
  name: 'flexkeep-monitor'
  scope: group
  params: {
    workspaceName: 'log-flexkeep-${token}'
    insightsName: 'appi-flexkeep-${token}'
    location: location
    tags: allTags
    principalId: identity.outputs.principalId
    retentionDays: logRetentionDays
    dailyCapGB: logDailyCapGB
  }
}

module net 'modules/network.bicep' = if (isPrivate) {
  name: 'flexkeep-network'
  scope: group
  params: {
    name: 'vnet-flexkeep-${token}'
    location: location
    tags: allTags
    create: network == 'new'
    addressPrefix: addressPrefix
    natGateway: natGateway
    existingAppSubnetId: appSubnetId
    existingEndpointSubnetId: endpointSubnetId
    existingDnsZoneIds: dnsZoneIds
    createDnsZones: createDnsZones
  }
}

module endpoints 'modules/private-endpoints.bicep' = if (isPrivate) {
  name: 'flexkeep-private-endpoints'
  scope: group
  params: {
    location: location
    tags: allTags
    subnetId: net!.outputs.endpointSubnetId
    dnsZoneIds: net!.outputs.dnsZoneIds
    endpoints: concat(
      [
        { name: 'pe-flexkeep-vault-${token}', resourceId: vault.outputs.accountId, groupId: 'blob' }
        { name: 'pe-flexkeep-host-blob-${token}', resourceId: hostStorage.outputs.accountId, groupId: 'blob' }
        { name: 'pe-flexkeep-host-table-${token}', resourceId: hostStorage.outputs.accountId, groupId: 'table' }
      ],
      serviceBusSku == 'Premium'
        ? [{ name: 'pe-flexkeep-bus-${token}', resourceId: bus.outputs.namespaceId, groupId: 'namespace' }]
        : []
    )
  }
}

module app 'modules/app.bicep' = {
  name: 'flexkeep-app'
  scope: group
  params: {
    appName: 'func-flexkeep-${token}'
    planName: 'plan-flexkeep-${token}'
    location: location
    tags: allTags
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    hostStorageName: hostStorage.outputs.accountName
    deploymentContainerUrl: hostStorage.outputs.deploymentContainerUrl
    insightsConnectionString: monitor.outputs.connectionString
    busHost: bus.outputs.host
    queueSettings: toObject(queues, queue => queue.setting, queue => queue.name)
    topicName: eventsTopic
    vaultUrl: vault.outputs.url
    policyPath: policyPath
    tick: tick
    extraAppSettings: extraAppSettings
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    alwaysReadyInstances: alwaysReadyInstances
    subnetId: isPrivate ? net!.outputs.appSubnetId : ''
    publicAccess: appPublicAccess
  }
  dependsOn: [
    endpoints
  ]
}

module appEndpoint 'modules/private-endpoints.bicep' = if (isPrivate && !appPublicAccess) {
  name: 'flexkeep-app-endpoint'
  scope: group
  params: {
    location: location
    tags: allTags
    subnetId: net!.outputs.endpointSubnetId
    dnsZoneIds: net!.outputs.dnsZoneIds
    endpoints: [{ name: 'pe-flexkeep-app-${token}', resourceId: app.outputs.appId, groupId: 'sites' }]
  }
}

module alerts 'modules/alerts.bicep' = {
  name: 'flexkeep-alerts'
  scope: group
  params: {
    location: location
    tags: allTags
    email: alertEmail
    workspaceId: monitor.outputs.workspaceId
    namespaceId: bus.outputs.namespaceId
    entityNames: concat(map(queues, queue => queue.name), [eventsTopic])
    appName: app.outputs.appName
    silenceWindow: silenceWindow
  }
}

@description('Resource group of the app; azd looks for the app there.')
output AZURE_RESOURCE_GROUP string = group.name

@description('Name of the function app.')
output FLEXKEEP_APP_NAME string = app.outputs.appName

@description('Address of the HTTP API, for flexkeep status and trigger.')
output FLEXKEEP_URL string = app.outputs.url

@description('The vault, as flexkeep takes it with --vault and in the policy.')
output FLEXKEEP_VAULT string = vault.outputs.url

@description('Storage account of the vault.')
output FLEXKEEP_VAULT_ACCOUNT string = vault.outputs.accountName

@description('Subscription of the vault.')
output FLEXKEEP_VAULT_SUBSCRIPTION string = vaultSubscriptionId

@description('Resource group of the vault.')
output FLEXKEEP_VAULT_GROUP string = vaultResourceGroupName

@description('What the write-once protection is meant to be; infra/lock-vault.sh reads it.')
output FLEXKEEP_VAULT_IMMUTABILITY string = vaultImmutability

@description('Name of the identity. It is the user that PostgreSQL knows it by.')
output FLEXKEEP_IDENTITY_NAME string = identity.outputs.name

@description('Object id of the identity, for pgaadauth_create_principal_with_oid and role assignments.')
output FLEXKEEP_IDENTITY_OBJECT_ID string = identity.outputs.principalId

@description('Host name of the Service Bus namespace.')
output FLEXKEEP_BUS_HOST string = bus.outputs.host

@description('The address that traffic comes from, for firewalls; empty without a NAT gateway.')
output FLEXKEEP_OUTBOUND_IP string = isPrivate ? net!.outputs.outboundIp : ''
