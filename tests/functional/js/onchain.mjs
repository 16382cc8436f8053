// @phala/cloud against the sample app of `teehouse up --chain anvil`: its contract is read with the chain that the API
// describes. Arguments: API URL, RPC URL, app id, device id, compose hash; the key is in PHALA_CLOUD_API_KEY.
import * as cloud from "@phala/cloud"

const [api, rpcUrl, appId, deviceId, composeHash] = process.argv.slice(2)
console.log = () => {}
const answer = await fetch(`${api}/kms/onchain`, {
  headers: { "X-API-Key": process.env.PHALA_CLOUD_API_KEY, "X-Phala-Version": "2026-01-21" },
})
const kms = await answer.json()
const appAddress = `0x${appId}`
const asked = { chain: kms.chain, rpcUrl, appAddress }
const word = (hex) => `0x${hex}`
const stranger = word("d9".repeat(32))
process.stdout.write(JSON.stringify({
  kms: { chain_id: kms.chain_id, kms_contract_address: kms.kms_contract_address },
  devices: await cloud.getAllowedDevices({ ...asked, deviceIds: [word(deviceId), stranger] }),
  prerequisites: await cloud.checkOnChainPrerequisites({ ...asked, deviceId: word(deviceId), composeHash: word(composeHash) }),
  device: await cloud.checkDeviceAllowed({ ...asked, deviceId: stranger }),
  compose: await cloud.checkComposeHashAllowed({ ...asked, composeHash: word(composeHash) }),
}))
