// Whose is the key for an app's environment, and an environment sealed for it, by the published JavaScript SDK.
// usage: node env.mjs APP_ID ANSWER ENVIRONMENT   (the KMS's answer and a list of {key, value}, as JSON)
import { encryptEnvVars } from '@phala/dstack-sdk/encrypt-env-vars'
import { verifyEnvEncryptPublicKey, verifyEnvEncryptPublicKeyLegacy } from '@phala/dstack-sdk/verify-env-encrypt-public-key'

const [appId, answerText, environment] = process.argv.slice(2)
const answer = JSON.parse(answerText)
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, 'hex'))
const key = bytes(answer.public_key)
const altered = Uint8Array.from(key, (byte, i) => (i === 0 ? byte ^ 1 : byte))

console.log(JSON.stringify({
  signer: verifyEnvEncryptPublicKey(key, bytes(answer.signature_v1), appId, answer.timestamp),
  legacySigner: verifyEnvEncryptPublicKeyLegacy(key, bytes(answer.signature), appId),
  ofAnotherKey: verifyEnvEncryptPublicKey(altered, bytes(answer.signature_v1), appId, answer.timestamp),
  tooOld: verifyEnvEncryptPublicKey(key, bytes(answer.signature_v1), appId, answer.timestamp - 400),
  sealed: await encryptEnvVars(JSON.parse(environment), answer.public_key),
}))
