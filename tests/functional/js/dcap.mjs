// Judges a quote with the published JavaScript verifier under a given root.
// usage: node dcap.mjs PCCS_URL QUOTE_HEX_FILE ROOT_DER_FILE|intel
import { readFileSync } from 'node:fs'
import * as dcap from '@phala/dcap-qvl'

const [pccs, quoteFile, root] = process.argv.slice(2)
const quote = Buffer.from(readFileSync(quoteFile, 'utf8').trim(), 'hex')
const now = Math.floor(Date.now() / 1000)
try {
  const collateral = await dcap.getCollateral(pccs, quote)
  const verified = root === 'intel'
    ? dcap.verify(quote, collateral, now)
    : dcap.QuoteVerifier.newWithRootCa(readFileSync(root)).verify(quote, collateral, now)
  const { status, advisory_ids } = await verified
  console.log(JSON.stringify({ accepted: true, status, advisory_ids }))
} catch (error) {
  console.log(JSON.stringify({ accepted: false, error: String(error?.message ?? error) }))
}
