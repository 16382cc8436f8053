// The documentation's examples of the ten app functions, as they are printed there, but for the app id, the hashes and
// the client: the published package has them as functions, which `extend` makes methods of.
// usage: node examples.mjs API_URL API_KEY APP_ID COMPOSE_HASH DEVICE_ID
import * as cloud from '@phala/cloud'

const [baseURL, apiKey, APP, HASH, DEVICE] = process.argv.slice(2)
const names = ['getAppList', 'getAppInfo', 'getAppCvms', 'getAppRevisions', 'getAppRevisionDetail', 'getAppFilterOptions',
  'getAppAttestation', 'getAppDeviceAllowlist', 'checkAppIsAllowed', 'checkAppCvmsIsAllowed']
const client = cloud.createClient({ baseURL, apiKey })
  .extend(Object.fromEntries(names.map((name) => [name, cloud[name]])))

const said = []
const console = { log: (...words) => said.push(words) }
const answers = {}

// getAppList
answers.list = await client.getAppList({
  page: 1,
  page_size: 20,
  status: ["running"],
});

// getAppInfo, getAppCvms, getAppRevisions, getAppRevisionDetail: no example is printed
answers.info = await client.getAppInfo({ appId: APP })
answers.cvms = await client.getAppCvms({ appId: APP })
answers.revisions = await client.getAppRevisions({ appId: APP })
const [{ revision_id: revisionId }] = answers.revisions.revisions
answers.revision = await client.getAppRevisionDetail({ appId: APP, revisionId })
answers.raw = await client.getAppRevisionDetail({ appId: APP, revisionId, rawComposeFile: true })

// getAppFilterOptions
const filters = await client.getAppFilterOptions();
console.log("Available statuses:", filters.statuses);
console.log("Available regions:", filters.regions);

// getAppAttestation
const att = await client.getAppAttestation({ appId: APP });
att.instances.forEach(inst => {
  console.log(inst.name, inst.status, inst.tcb_info?.app_compose);
});
answers.attestation = att

// getAppDeviceAllowlist
const allowlist = await client.getAppDeviceAllowlist({ appId: APP });
if (allowlist.is_onchain_kms) {
  allowlist.devices.forEach(d => {
    console.log(d.device_id, d.status, d.allowed_onchain);
  });
}
answers.allowlist = allowlist

// checkAppIsAllowed
try {
  const result = await client.checkAppIsAllowed({
    appId: APP,
    compose_hash: HASH,
    device_id: DEVICE,
  });
  console.log(`Allowed: ${result.is_allowed}`);
  answers.allowed = result
} catch (error) { // an app of the off-chain KMS has no contract to ask
  answers.refused = { status: error.status, code: error.errorCode, message: error.message }
}

// checkAppCvmsIsAllowed
const batch = await client.checkAppCvmsIsAllowed({ appId: APP });
console.log(`${batch.allowed_count}/${batch.total} CVMs allowed`);
batch.results.forEach(r => {
  console.log(`CVM ${r.cvm_id}: allowed=${r.is_allowed}`);
});
answers.batch = batch

process.stdout.write(JSON.stringify({ said, answers }))
