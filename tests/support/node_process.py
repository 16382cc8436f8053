"""A node in a process of its own, to be killed: `python node_process.py DIRECTORY KMS_URL`.

It opens the node of the installation in DIRECTORY, creates and starts the CVM that a line of JSON on standard input
describes, prints a line of JSON when the CVM has settled, and stays until it is ended.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

from teehouse.base.clock import SystemClock
from teehouse.node.api import CvmSpec, settled
from teehouse.stack.installation import open_installation
from teehouse.stack.node_emulated import emulated_node

START_SECONDS = 120.0


async def main(directory: Path, kms_url: str) -> None:
    wanted = json.loads(sys.stdin.readline())
    spec = CvmSpec(
        cvm_id=wanted["cvm_id"],
        name=wanted["name"],
        compose=base64.b64decode(wanted["compose"]),
        encrypted_env=base64.b64decode(wanted["encrypted_env"]),
    )
    async with emulated_node(open_installation(directory, SystemClock()), (kms_url,)) as node:
        await node.create(spec)
        await node.start(spec.cvm_id)
        state = await settled(node, spec.cvm_id, timeout_seconds=START_SECONDS)
        error = state.error.sentence() if state.error else ""
        sys.stdout.write(json.dumps({"phase": state.phase.value, "error": error}) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
