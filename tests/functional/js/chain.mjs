// Every on-chain function of @phala/cloud (onchain.md 6), unmodified, against the contracts on a chain of one's own.
// Arguments: RPC URL, KMS contract, owner's key, stranger's key. Prints what each gave.
import * as cloud from "@phala/cloud"
import { createPublicClient, createWalletClient, http } from "viem"
import { privateKeyToAccount } from "viem/accounts"
import { anvil } from "viem/chains"

const [rpcUrl, kmsContractAddress, privateKey, strangerKey] = process.argv.slice(2)
const word = (byte) => `0x${byte.repeat(32)}`
console.log = () => {} // the client prints receipts

const owner = { chain: anvil, rpcUrl, privateKey }
const stranger = { chain: anvil, rpcUrl, privateKey: strangerKey }
const failure = async (promise) => {
  try {
    await promise
    return null
  } catch (error) {
    return String(error.message)
  }
}
const plain = (value) => JSON.parse(JSON.stringify(value, (_, part) => (typeof part === "bigint" ? Number(part) : part)))

const deploy = (options = {}) =>
  cloud.deployAppAuth({ ...owner, kmsContractAddress, deviceId: word("de"), composeHash: word("c0"), ...options })
const first = await deploy()
const second = await deploy({ deviceId: undefined, allowAnyDevice: true })
const contract = first.appAuthAddress
const publicClient = createPublicClient({ chain: anvil, transport: http(rpcUrl) })
const wallet = createWalletClient({ account: privateKeyToAccount(privateKey), chain: anvil, transport: http(rpcUrl) })
// The stock chain object names no multicall; one that does makes the two batched checks work.
const named = { ...anvil, contracts: { multicall3: { address: "0xcA11bde05977b3631167028862bE2a173976CA11" } } }

const answers = {
  deployed: plain(first),
  anyDevice: plain(second),
  owners: [
    await publicClient.readContract({
      address: contract, abi: [{ type: "function", name: "owner", inputs: [], outputs: [{ type: "address" }], stateMutability: "view" }],
      functionName: "owner",
    }),
    wallet.account.address,
  ],
  noKms: await failure(deploy({ kmsContractAddress: `0x${"12".repeat(20)}` })),
  checked: {
    compose: await cloud.checkComposeHashAllowed({ chain: anvil, rpcUrl, appAddress: contract, composeHash: word("c0") }),
    otherCompose: await cloud.checkComposeHashAllowed({ chain: anvil, rpcUrl, appAddress: contract, composeHash: word("c1") }),
    device: await cloud.checkDeviceAllowed({ chain: anvil, rpcUrl, appAddress: contract, deviceId: word("de") }),
    otherDevice: await cloud.checkDeviceAllowed({ chain: anvil, rpcUrl, appAddress: contract, deviceId: word("d1") }),
  },
}

await cloud.addComposeHash({ ...owner, appId: contract, composeHash: word("c1"), kmsContractAddress })
await cloud.addDevice({ ...owner, appAddress: contract, deviceId: word("d1") })
await cloud.removeDevice({ ...owner, appAddress: contract, deviceId: word("de") })
answers.changed = {
  prerequisites: plain(await cloud.checkOnChainPrerequisites({
    chain: named, rpcUrl, appAddress: contract, deviceId: word("d1"), composeHash: word("c1"),
  })),
  devices: plain(await cloud.getAllowedDevices({
    chain: named, rpcUrl, appAddress: contract, deviceIds: [word("de"), word("d1"), word("d2")],
  })),
}
await cloud.setAllowAnyDevice({ ...owner, appAddress: contract, allow: true })
answers.any = {
  otherDevice: await cloud.checkDeviceAllowed({ chain: anvil, rpcUrl, appAddress: contract, deviceId: word("d9") }),
  prerequisites: plain(await cloud.checkOnChainPrerequisites({
    chain: named, rpcUrl, appAddress: contract, deviceId: word("d9"), composeHash: word("c9"),
  })),
}
answers.stranger = {
  compose: await failure(cloud.addComposeHash({ ...stranger, appId: contract, composeHash: word("c2"), kmsContractAddress })),
  device: await failure(cloud.addDevice({ ...stranger, appAddress: contract, deviceId: word("d2") })),
  remove: await failure(cloud.removeDevice({ ...stranger, appAddress: contract, deviceId: word("d1") })),
  any: await failure(cloud.setAllowAnyDevice({ ...stranger, appAddress: contract, allow: false })),
}
// The safe forms: what the throwing ones give, or what they throw, in an object.
const app = { chain: named, rpcUrl, appAddress: contract }
const told = ({ success, data, error }) => (success ? plain(data) : { refused: error.message })
answers.safe = {
  compose: told(await cloud.safeCheckComposeHashAllowed({ ...app, composeHash: word("c1") })),
  device: told(await cloud.safeCheckDeviceAllowed({ ...app, deviceId: word("d9") })),
  prerequisites: told(await cloud.safeCheckOnChainPrerequisites({ ...app, deviceId: word("d9"), composeHash: word("c9") })),
  devices: told(await cloud.safeGetAllowedDevices({ ...app, deviceIds: [word("de"), word("d1")] })),
}
answers.safelyRefused = {
  deploy: told(await cloud.safeDeployAppAuth({
    ...owner, kmsContractAddress: `0x${"12".repeat(20)}`, deviceId: word("de"), composeHash: word("c0"),
  })),
  compose: told(await cloud.safeAddComposeHash({ ...stranger, appId: contract, composeHash: word("c2"), kmsContractAddress })),
  device: told(await cloud.safeAddDevice({ ...stranger, appAddress: contract, deviceId: word("d2") })),
  remove: told(await cloud.safeRemoveDevice({ ...stranger, appAddress: contract, deviceId: word("d1") })),
  any: told(await cloud.safeSetAllowAnyDevice({ ...stranger, appAddress: contract, allow: false })),
}
process.stdout.write(JSON.stringify(answers))
