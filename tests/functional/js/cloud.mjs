// Calls the published JavaScript client of the control plane's API, as it is told on stdin, one JSON line per call:
//   {"id": 1, "version": "2026-01-21", "form": "function" | "method" | "local" | "webhook", "name": "...", "arguments": [...]}
// and answers each with a line {"id": 1, "result": ...} or {"id": 1, "error": {...}}. Calls go on side by side.
// usage: node cloud.mjs API_URL API_KEY
import { createInterface } from 'node:readline'
import * as cloud from '@phala/cloud'
import * as webhook from '@phala/cloud/webhook'

const [baseURL, apiKey] = process.argv.slice(2)
const clients = Object.fromEntries(cloud.SUPPORTED_API_VERSIONS.map((version) =>
  [version, cloud.createClient({ baseURL, apiKey, version })]))

// Every function that the package exports (classes apart), and every function that its client object has.
const isClass = (value) => /^class\b/.test(Function.prototype.toString.call(value))
const functionsOf = (module) =>
  Object.keys(module).filter((name) => typeof module[name] === 'function' && !isClass(module[name]))
function methodsOf(client) {
  const found = new Set()
  for (let of = client; of && of !== Object.prototype; of = Object.getPrototypeOf(of)) {
    for (const name of Object.getOwnPropertyNames(of)) {
      if (name !== 'constructor' && typeof client[name] === 'function') found.add(name)
    }
  }
  return [...found]
}
const names = () => ({
  functions: functionsOf(cloud), webhook: functionsOf(webhook),
  methods: methodsOf(cloud.createClient({ baseURL, apiKey })),
})

const own = {
  names,
  // A client without a key, as a page in a browser has it.
  keyless: (name, ...rest) => cloud[name](cloud.createClient({ baseURL, useCookieAuth: true }), ...rest),
  // `once` and `on` hear of an error each, `off` ends the hearing; `extend` and `withVersion` make other clients.
  async events(version) {
    const client = clients[version]
    const heard = { on: 0, once: 0 }
    const on = () => { heard.on += 1 }
    client.on('error', on)
    client.once('error', () => { heard.once += 1 })
    for (let i = 0; i < 2; i++) await client.safeGet('/cvms/no-such-cvm')
    client.off('error', on)
    await client.safeGet('/cvms/no-such-cvm')
    return heard
  },
  async others(version) {
    const other = clients[version].withVersion(cloud.SUPPORTED_API_VERSIONS.find((one) => one !== version))
    const extended = other.extend({ whoever: (client) => cloud.getCurrentUser(client) })
    return { raw: await other.raw('/auth/me'), extended: await extended.whoever() }
  },
  async full(version, name) {
    const answer = await clients[version][name]('/cvms/no-such-cvm')
    const { status, ok, data } = name.startsWith('safe') ? answer.data : answer
    return { status, ok, data }
  },
  safely: (version, path) => clients[version].safeRequest(() => clients[version].get(path)),
  // The errors' texts as the package makes them.
  async refused(version) {
    const answer = await clients[version].safeGetCvmInfo({ id: 'no-such-cvm' })
    const error = answer.error
    return {
      success: answer.success, name: error.constructor.name, status: error.status, code: error.errorCode,
      formatted: cloud.formatErrorMessage(error), message: cloud.getErrorMessage(error),
      structured: cloud.formatStructuredError(error), conflict: cloud.isConflictError(error),
      appIdConflict: cloud.isAppIdConflictError(error), parsed: cloud.parseApiError(error).name,
    }
  },
  async invalid(version) {
    const error = await clients[version].post('/cvms/provision', { name: 7 }).catch((thrown) => thrown)
    return { name: error.constructor.name, fields: cloud.getValidationFields(error),
      text: cloud.formatValidationErrors(error.validationErrors) }
  },
  async watch(version, request) {
    const events = []
    const state = await cloud.watchCvmState(clients[version], request, { onEvent: (event) => events.push(event.type) })
    return { state, events }
  },
  // Whose signature stands under a key for environments.
  signer: (key, signature, appId) =>
    cloud.verifyEnvEncryptPublicKey(Buffer.from(key, 'hex'), Buffer.from(signature, 'hex'), appId),
  async composeFile(version, request) {
    const file = await clients[version].getCvmComposeFile(request)
    return { file, hash: file.getHash(), text: file.toString() }
  },
}

async function call({ version, form, name, arguments: given = [] }) {
  if (form === 'own') return await own[name](...given)
  if (form === 'local') return await cloud[name](...given)
  if (form === 'webhook') return await webhook[name](...given)
  const client = clients[version]
  return form === 'method' ? await client[name](...given) : await cloud[name](client, ...given)
}

function described(error) {
  const { name, message, status, errorCode, detail, issues } = error
  return { name, message: issues ? 'the answer is not of the form the client expects' : message,
    status, code: errorCode, detail, issues }
}

// Lone bytes (signatures, keys) travel as hex.
const plain = (_, value) => (value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value)
const say = (line) => process.stdout.write(JSON.stringify(line, plain) + '\n')
console.warn = () => {}

createInterface({ input: process.stdin }).on('line', async (line) => {
  const asked = JSON.parse(line)
  try {
    const result = await call(asked)
    const safe = result !== null && typeof result === 'object' && typeof result.success === 'boolean'
    if (safe && asked.form !== 'own') {
      if (result.success) say({ id: asked.id, result: result.data ?? null })
      else say({ id: asked.id, error: described(result.error) })
    } else say({ id: asked.id, result: result ?? null })
  } catch (error) {
    say({ id: asked.id, error: described(error) })
  }
})
