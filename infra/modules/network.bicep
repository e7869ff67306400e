// The network: a new one, or what is there; and the private DNS zones.

@description('Name of a new network.')
param name string

@description('Its region.')
param location string

@description('Tags.')
param tags object

@description('Whether to make a network.')
param create bool

@description('Address range of a new network.')
param addressPrefix string

@description('Whether traffic leaves a new network through an address of its own.')
param natGateway bool

@description('Subnet of the app in a network that is there.')
param existingAppSubnetId string

@description('Subnet of private endpoints in a network that is there.')
param existingEndpointSubnetId string

@description('Private DNS zones that are there, by group (blob, table, namespace, sites).')
param existingDnsZoneIds object

@description('Whether to make zones that are missing.')
param createDnsZones bool

// Each group of private endpoints, and its zone.
var groups = [
  { id: 'blob', zone: 'privatelink.blob.${environment().suffixes.storage}' }
  { id: 'table', zone: 'privatelink.table.${environment().suffixes.storage}' }
  { id: 'namespace', zone: 'privatelink.servicebus.windows.net' }
  { id: 'sites', zone: 'privatelink.azurewebsites.net' }
]
var missing = createDnsZones ? filter(groups, entry => !contains(existingDnsZoneIds, entry.id)) : []
var appSubnet = 'app'
var endpointSubnet = 'endpoints'
var hasNat = create && natGateway

resource address 'Microsoft.Network/publicIPAddresses@2024-05-01' = if (hasNat) {
  name: 'pip-${name}'
  location: location
  tags: tags
  sku: { name: 'Standard' }
  properties: { publicIPAllocationMethod: 'Static' }
}

resource nat 'Microsoft.Network/natGateways@2024-05-01' = if (hasNat) {
  name: 'ng-${name}'
  location: location
  tags: tags
  sku: { name: 'Standard' }
  properties: { publicIpAddresses: [{ id: address.id }] }
}

resource vnet 'Microsoft.Network/virtualNetworks@2024-05-01' = if (create) {
  name: name
  location: location
  tags: tags
  properties: {
    addressSpace: { addressPrefixes: [addressPrefix] }
    subnets: [
      {
        name: appSubnet
        properties: {
          addressPrefix: cidrSubnet(addressPrefix, 26, 0)
          natGateway: hasNat ? { id: nat.id } : null
          delegations: [
            { name: 'flex', properties: { serviceName: 'Microsoft.App/environments' } }
          ]
        }
      }
      {
        name: endpointSubnet
        properties: {
          addressPrefix: cidrSubnet(addressPrefix, 27, 2)
          privateEndpointNetworkPolicies: 'Disabled'
        }
      }
    ]
  }
}

var vnetId = create ? resourceId('Microsoft.Network/virtualNetworks', name) : split(existingEndpointSubnetId, '/subnets/')[0]

resource zones 'Microsoft.Network/privateDnsZones@2024-06-01' = [
  for entry in missing: {
    name: entry.zone
    location: 'global'
    tags: tags
  }
]

resource links 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [
  for (entry, i) in missing: {
    parent: zones[i]
    name: 'flexkeep'
    location: 'global'
    tags: tags
    properties: {
      registrationEnabled: false
      virtualNetwork: { id: vnetId }
    }
    dependsOn: [
      vnet
    ]
  }
]

@description('Subnet that the app\'s traffic leaves through.')
output appSubnetId string = create
  ? resourceId('Microsoft.Network/virtualNetworks/subnets', vnet.name, appSubnet)
  : existingAppSubnetId

@description('Subnet of private endpoints.')
output endpointSubnetId string = create
  ? resourceId('Microsoft.Network/virtualNetworks/subnets', vnet.name, endpointSubnet)
  : existingEndpointSubnetId

@description('Zones by group; a group without a zone is not in it.')
output dnsZoneIds object = union(
  existingDnsZoneIds,
  toObject(missing, entry => entry.id, entry => resourceId('Microsoft.Network/privateDnsZones', entry.zone))
)

@description('The address that traffic leaves from; empty without a NAT gateway.')
output outboundIp string = hasNat ? address!.properties.ipAddress : ''
