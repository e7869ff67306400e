// The cheapest start: everything in one subscription and region, no network. What is reachable from
// the internet is guarded by Entra tokens; no account takes keys. Nothing but storage, logs and the
// base charge of Service Bus is paid for while no backup runs.
using '../main.bicep'

param environmentName = 'start'
param location = 'westeurope'
param alertEmail = 'dba@example.com'
