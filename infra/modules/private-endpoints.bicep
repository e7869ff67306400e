// Private endpoints, each with its entry in a private DNS zone.

@description('Region of the network.')
param location string

@description('Tags.')
param tags object

@description('Subnet that they are in.')
param subnetId string

@description('Private DNS zones by group.')
param dnsZoneIds object

@description('The endpoints: name, resourceId and groupId of each.')
param endpoints array

resource privateEndpoints 'Microsoft.Network/privateEndpoints@2024-05-01' = [
  for endpoint in endpoints: {
    name: endpoint.name
    location: location
    tags: tags
    properties: {
      subnet: { id: subnetId }
      customNetworkInterfaceName: 'nic-${endpoint.name}'
      privateLinkServiceConnections: [
        {
          name: endpoint.name
          properties: {
            privateLinkServiceId: endpoint.resourceId
            groupIds: [endpoint.groupId]
          }
        }
      ]
    }
  }
]

resource entries 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-05-01' = [
  for (endpoint, i) in endpoints: if (contains(dnsZoneIds, endpoint.groupId)) {
    parent: privateEndpoints[i]
    name: 'default'
    properties: {
      privateDnsZoneConfigs: [
        {
          name: endpoint.groupId
          properties: { privateDnsZoneId: dnsZoneIds[endpoint.groupId] }
        }
      ]
    }
  }
]
