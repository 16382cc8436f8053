// Prints name and length of the compose text as the published SDK sees them.
// usage: node info.mjs ENDPOINT
import { DstackClient } from '@phala/dstack-sdk'

const info = await new DstackClient(process.argv[2]).info()
console.log(JSON.stringify({ name: info.app_name, compose: info.tcb_info.app_compose.length }))
