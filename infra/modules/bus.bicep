// Service Bus: the queues of work and the topic of events. Deliveries, lifetime and the memory for
// duplicates are those of the local queue (crates/bus): what holds on one machine holds here.

@description('Name of the namespace.')
param namespaceName string

@description('Its region.')
param location string

@description('Its tags.')
param tags object

@description('Object id of the app\'s identity.')
param principalId string

@description('Standard or Premium. Basic has no topics and no detection of duplicates.')
@allowed(['Standard', 'Premium'])
param sku string

@description('Names of the queues.')
param queueNames array

@description('Name of the topic of events.')
param topicName string

@description('Whether to make a role that gives exactly what is needed.')
param customRoles bool

@description('Whether it can be reached from the internet, with a token. Only Premium can be closed.')
param publicAccess bool

// https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
var dataReceiver = '4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0'
var dataSender = '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39'
var scalerRoleId = guid(resourceGroup().id, namespaceName, 'flexkeep scaler')

resource busNamespace 'Microsoft.ServiceBus/namespaces@2024-01-01' = {
  name: namespaceName
  location: location
  tags: tags
  sku: { name: sku, tier: sku, capacity: sku == 'Premium' ? 1 : null }
  properties: {
    disableLocalAuth: true
    minimumTlsVersion: '1.2'
    publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
  }
}

resource queues 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = [
  for name in queueNames: {
    parent: busNamespace
    name: name
    properties: {
      // Ids are made from server and instant: a tick that is repeated after a long weekend must
      // still change nothing. Seven days is the most that there is.
      requiresDuplicateDetection: true
      duplicateDetectionHistoryTimeWindow: 'P7D'
      // The host renews the lock as long as the function runs. Five minutes is the most that there
      // is; a shorter one would come back earlier when an instance dies, and be lost more easily
      // while the host is busy.
      lockDuration: 'PT5M'
      maxDeliveryCount: 10
      defaultMessageTimeToLive: 'P14D'
      deadLetteringOnMessageExpiration: true
      requiresSession: false
      enableBatchedOperations: true
    }
  }
]

resource topic 'Microsoft.ServiceBus/namespaces/topics@2024-01-01' = {
  parent: busNamespace
  name: topicName
  properties: {
    // An event is told again with the same id when it is not certain that it was told.
    requiresDuplicateDetection: true
    duplicateDetectionHistoryTimeWindow: 'P7D'
    defaultMessageTimeToLive: 'P14D'
    enableBatchedOperations: true
  }
}

// What nobody else subscribed to can still be looked up here for two weeks. Old events are dropped,
// not dead letters: they are in the logs too.
resource everything 'Microsoft.ServiceBus/namespaces/topics/subscriptions@2024-01-01' = {
  parent: topic
  name: 'all'
  properties: {
    lockDuration: 'PT1M'
    maxDeliveryCount: 10
    defaultMessageTimeToLive: 'P14D'
    deadLetteringOnMessageExpiration: false
  }
}

resource receives 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (name, i) in queueNames: {
    name: guid(busNamespace.id, name, principalId, dataReceiver)
    scope: queues[i]
    properties: {
      principalId: principalId
      principalType: 'ServicePrincipal'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataReceiver)
      description: 'flexkeep: the trigger takes messages'
    }
  }
]

resource sends 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (name, i) in queueNames: {
    name: guid(busNamespace.id, name, principalId, dataSender)
    scope: queues[i]
    properties: {
      principalId: principalId
      principalType: 'ServicePrincipal'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataSender)
      description: 'flexkeep: the schedule and retries send messages'
    }
  }
]

resource tells 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(topic.id, principalId, dataSender)
  scope: topic
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataSender)
    description: 'flexkeep: events'
  }
}

// The platform asks for the length of a queue with the app's identity to know how many instances
// it takes. Without this right it falls back to peeking at messages.
resource scalerRole 'Microsoft.Authorization/roleDefinitions@2022-04-01' = if (customRoles) {
  name: scalerRoleId
  properties: {
    roleName: 'flexkeep scaler (${namespaceName})'
    description: 'Reads how long queues are; no messages, no keys.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: ['Microsoft.ServiceBus/namespaces/*/read']
        notActions: []
        dataActions: []
        notDataActions: []
      }
    ]
  }
}

resource scales 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (customRoles) {
  name: guid(busNamespace.id, principalId, scalerRoleId)
  scope: busNamespace
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: scalerRole.id
    description: 'flexkeep: how many instances it takes'
  }
}

@description('Resource id of the namespace.')
output namespaceId string = busNamespace.id

@description('Its host name.')
output host string = '${busNamespace.name}.servicebus.windows.net'
