// The function app on Flex Consumption, as a custom handler.

@description('Name of the app.')
param appName string

@description('Name of its plan. Flex Consumption has one app on each.')
param planName string

@description('Its region.')
param location string

@description('Its tags.')
param tags object

@description('Resource id of the app\'s identity.')
param identityId string

@description('Client id of the app\'s identity.')
param identityClientId string

@description('Storage account of the Functions host.')
param hostStorageName string

@description('Container that the package lies in.')
param deploymentContainerUrl string

@description('Where logs go.')
param insightsConnectionString string

@description('Host name of the Service Bus namespace.')
param busHost string

@description('App settings that name queues.')
param queueSettings object

@description('Topic of events.')
param topicName string

@description('The vault.')
param vaultUrl string

@description('Path of the policy file in the package.')
param policyPath string

@description('When schedules are looked at.')
param tick string

@description('More app settings.')
param extraAppSettings object

@description('Memory of an instance, MB.')
param instanceMemoryMB int

@description('At most this many instances.')
param maximumInstanceCount int

@description('Instances that always run for the function backup.')
param alwaysReadyInstances int

@description('Subnet that traffic leaves through; empty for none.')
param subnetId string

@description('Whether the API can be reached from the internet.')
param publicAccess bool

// What an instance works on at once, of its function: a lane takes up to 192 MiB, and most of a core
// where the server is quick. host.json has a larger number, for machines that are larger.
var concurrentCalls = instanceMemoryMB < 2048 ? '1' : instanceMemoryMB < 4096 ? '2' : '4'

// What extraAppSettings may set otherwise.
var defaults = {
  FLEXKEEP_LANE_SECONDS: '480'
  FLEXKEEP_PROGRESS_SECONDS: '60'
  FLEXKEEP_EVENTS: 'topic:${topicName},log'
  AzureFunctionsJobHost__extensions__serviceBus__maxConcurrentCalls: concurrentCalls
}

// FUNCTIONS_WORKER_RUNTIME and its like are not settings here: Flex Consumption takes the runtime
// from functionAppConfig, and refuses or ignores them.
var settings = {
  FLEXKEEP_POLICY: policyPath
  FLEXKEEP_TICK: tick
  FLEXKEEP_VAULT: vaultUrl
  FLEXKEEP_BUS__fullyQualifiedNamespace: busHost
  FLEXKEEP_BUS__credential: 'managedidentity'
  FLEXKEEP_BUS__clientId: identityClientId
  AZURE_CLIENT_ID: identityClientId
  AzureWebJobsStorage__accountName: hostStorageName
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
  APPLICATIONINSIGHTS_CONNECTION_STRING: insightsConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
}

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: { reserved: true }
}

resource app 'Microsoft.Web/sites@2024-04-01' = {
  name: appName
  location: location
  tags: union(tags, { 'azd-service-name': 'app' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identityId}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
    // For references to secrets in a key vault.
    keyVaultReferenceIdentity: identityId
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: deploymentContainerUrl
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: { name: 'custom', version: '1.0' }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        alwaysReady: alwaysReadyInstances > 0 ? [{ name: 'function:backup', instanceCount: alwaysReadyInstances }] : []
      }
    }
    siteConfig: { minTlsVersion: '1.2' }
  }

  resource appSettings 'config' = {
    name: 'appsettings'
    properties: union(defaults, extraAppSettings, queueSettings, settings)
  }

  // No passwords for deployments: the package is put with an Entra token.
  resource ftp 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: { allow: false }
  }

  resource scm 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: { allow: false }
  }
}

@description('Resource id of the app.')
output appId string = app.id

@description('Name of the app.')
output appName string = app.name

@description('Address of the app.')
output url string = 'https://${app.properties.defaultHostName}'
