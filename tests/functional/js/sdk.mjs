// Calls every method of the published JavaScript SDK against an endpoint and prints what came back as JSON.
// usage: node sdk.mjs DSTACK_ENDPOINT TAPPD_ENDPOINT
import { DstackClient, TappdClient } from '@phala/dstack-sdk'

const [dstack, tappd] = process.argv.slice(2)
const hex = (bytes) => Buffer.from(bytes).toString('hex')
const out = {}

const client = new DstackClient(dstack)
out.reachable = await client.isReachable()
out.version = await client.version()
out.info = await client.info()

const key = await client.getKey('eth/test', 'wallet')
out.key = { key: hex(key.key), chain: key.signature_chain.map(hex) }
const ed = await client.getKey('sol/test', 'wallet', 'ed25519')
out.ed25519 = { key: hex(ed.key), chain: ed.signature_chain.map(hex) }

const tls = await client.getTlsKey({
  subject: 'example.com', altNames: ['www.example.com', '127.0.0.1'], usageRaTls: true,
  usageServerAuth: true, usageClientAuth: true, withAppInfo: true,
})
out.tls = { key: tls.key, chain: tls.certificate_chain }

const registersOf = (quote) =>
  [0, 1, 2, 3].map((i) => quote.slice(2 * (376 + 48 * i), 2 * (424 + 48 * i)))
const quote = async () => {
  const answer = await client.getQuote(Buffer.from('0102', 'hex'))
  return { quote: answer.quote, reportData: answer.report_data, vmConfig: answer.vm_config,
    registers: registersOf(answer.quote), replayed: answer.replayRtmrs() }
}
out.before = await quote()
await client.emitEvent('from-js', 'payload')
out.after = await quote()
await Promise.all(Array.from({ length: 50 }, (_, i) => client.emitEvent(`many-${i}`, Buffer.from([i]))))
out.afterMany = await quote()

out.attestation = (await client.attest('user:123')).attestation

const data = 'Test message for signing'
out.signatures = {}
for (const algorithm of ['ed25519', 'secp256k1']) {
  const signed = await client.sign(algorithm, data)
  const verified = await client.verify(algorithm, data, signed.signature, signed.public_key)
  const refused = await client.verify(algorithm, data + '!', signed.signature, signed.public_key)
  out.signatures[algorithm] = { signature: hex(signed.signature), publicKey: hex(signed.public_key),
    chain: signed.signature_chain.map(hex), verified: verified.valid, refused: refused.valid }
}
const digest = Buffer.alloc(32, 7)
const prehashed = await client.sign('secp256k1_prehashed', digest)
out.signatures.prehashed = (await client.verify('secp256k1_prehashed', digest, prehashed.signature, prehashed.public_key)).valid

const legacy = new TappdClient(tappd)
out.tappd = { reachable: await legacy.isReachable(), info: await legacy.info() }
const derived = await legacy.deriveKey('/', 'test', ['localhost'])
out.tappd.derived = { key: derived.key, chain: derived.certificate_chain, bytes: hex(derived.asUint8Array(32)) }
for (const algorithm of ['sha256', 'sha384', 'sha512', 'sha3-256', 'sha3-384', 'sha3-512',
  'keccak256', 'keccak384', 'keccak512', 'raw', undefined]) {
  const answer = await legacy.tdxQuote('test', algorithm)
  out.tappd[algorithm ?? 'default'] = { reportData: answer.quote.slice(2 * 568, 2 * 632),
    registers: registersOf(answer.quote), replayed: answer.replayRtmrs() }
}
const inherited = await legacy.getKey('eth/test', 'wallet')
out.tappd.inheritedKey = hex(inherited.key)

console.log(JSON.stringify(out))
