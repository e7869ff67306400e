// Alerts. Azure's log alerts see at most two days back, which a weekly backup does not fit into. So
// who says that a backup is missing is the app, which knows each schedule (the event
// flexkeep.server.overdue, a day after an instant without a backup); and silence says that the app
// itself does not.

@description('Region.')
param location string

@description('Tags.')
param tags object

@description('Where alerts are mailed to; empty for nowhere.')
param email string

@description('Workspace of the logs.')
param workspaceId string

@description('Service Bus namespace.')
param namespaceId string

@description('Queues and topics that are watched for dead letters.')
param entityNames array

@description('Name of the app, which is its role name in the logs.')
param appName string

@description('How long the schedules may go without a successful look.')
param silenceWindow string

var ofApp = 'where AppRoleName =~ "${appName}"'

// What the sink `log` writes; docs/events.md has the types.
var events = [
  {
    name: 'overdue'
    severity: 1
    title: 'a backup is overdue'
    text: 'No backup succeeded within a day after it was scheduled. The alert names the server.'
    type: 'flexkeep.server.overdue'
  }
  {
    name: 'failed'
    severity: 2
    title: 'a backup failed'
    text: 'A backup was given up after all of its attempts, or a message was refused. The event in the topic says why.'
    type: 'flexkeep.backup.failed'
  }
  {
    name: 'degraded'
    severity: 2
    title: 'a daily schedule became weekly'
    text: 'Two scheduled backups in a row failed; until one succeeds, there is one a week.'
    type: 'flexkeep.schedule.degraded'
  }
  {
    name: 'drill-failed'
    severity: 1
    title: 'a restore drill failed'
    text: 'The newest backup of the server could not be restored on trial, or what was restored is not what it should be. The event in the topic says why.'
    type: 'flexkeep.drill.failed'
  }
  {
    name: 'restore-failed'
    severity: 2
    title: 'a restore failed'
    text: 'A restore that somebody asked for was given up, or a message was refused. The event in the topic says why.'
    type: 'flexkeep.restore.failed'
  }
]

var actionGroups = empty(email) ? [] : [actions.id]

resource actions 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(email)) {
  name: 'ag-${appName}'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'flexkeep'
    enabled: true
    emailReceivers: [
      { name: 'operator', emailAddress: email, useCommonAlertSchema: true }
    ]
  }
}

resource eventAlerts 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [
  for event in events: {
    name: 'flexkeep-${event.name}-${appName}'
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: 'flexkeep: ${event.title}'
      description: event.text
      severity: event.severity
      enabled: true
      scopes: [workspaceId]
      evaluationFrequency: 'PT5M'
      windowSize: 'PT15M'
      // An event is told once; the alert stays until somebody closes it.
      autoMitigate: false
      // Windows overlap, as logs arrive late. Without this an event would be mailed three times.
      muteActionsDuration: 'PT15M'
      // The tables come with the first log.
      skipQueryValidation: true
      criteria: {
        allOf: [
          {
            query: 'AppTraces | ${ofApp} | where Message has "event_type=${event.type}" | extend Server = extract("subject=([^ ]*)", 1, Message)'
            timeAggregation: 'Count'
            // One alert for each server.
            dimensions: [{ name: 'Server', operator: 'Include', values: ['*'] }]
            operator: 'GreaterThan'
            threshold: 0
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      actions: { actionGroups: actionGroups }
    }
  }
]

resource silence 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = {
  name: 'flexkeep-silence-${appName}'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: 'flexkeep: no look at the schedules succeeded'
    description: 'The function `schedule` did not succeed for too long: the app does not run, the policy cannot be read, or the vault or the queue cannot be reached. While this lasts nothing tells that a backup is overdue.'
    severity: 1
    enabled: true
    scopes: [workspaceId]
    evaluationFrequency: 'PT15M'
    windowSize: silenceWindow
    autoMitigate: true
    skipQueryValidation: true
    criteria: {
      allOf: [
        {
          query: 'AppRequests | ${ofApp} | where OperationName =~ "schedule" and Success == true'
          timeAggregation: 'Count'
          operator: 'LessThan'
          threshold: 1
          failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
        }
      ]
    }
    actions: { actionGroups: actionGroups }
  }
}

resource deadLetters 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: 'flexkeep-dead-letters-${appName}'
  location: 'global'
  tags: tags
  properties: {
    description: 'A message was delivered ten times without an answer, or nobody took it in 14 days. It is kept in the dead-letter queue, and nothing is done with it.'
    severity: 2
    enabled: true
    scopes: [namespaceId]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT15M'
    // The metric falls to 0 when an entity is idle for two hours, with its dead letters still there.
    autoMitigate: false
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: 'dead-letters'
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.ServiceBus/namespaces'
          metricName: 'DeadletteredMessages'
          timeAggregation: 'Maximum'
          operator: 'GreaterThan'
          threshold: 0
          dimensions: [
            { name: 'EntityName', operator: 'Include', values: entityNames }
          ]
        }
      ]
    }
    actions: map(actionGroups, id => { actionGroupId: id })
  }
}
