"""The parts of Teehouse run apart, as an operator runs them: nodes, API replicas and workers, each a process."""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.balancer import Balancer, balanced
from support.processes import Process, free_port, started
from teehouse.base.clock import SystemClock
from teehouse.base.files import write_atomic
from teehouse.stack import cloud_setup
from teehouse.stack.cloud_place import Place
from teehouse.stack.cloud_setup import KmsOptions, NodeOptions
from teehouse.stack.installation import open_installation
from teehouse.stack.kms_emulated import serve_kms
from teehouse.stack.node_serving import write_bundle

REGION = "somewhere"


@dataclass
class House:
    """All of it; `apis` are by URL. The KMS is in the test's process."""

    folder: Path
    database_url: str
    auth_file: Path
    url: str
    balancer: Balancer
    seed: str = field(repr=False)
    nodes: dict[str, Process] = field(default_factory=dict)
    apis: dict[str, Process] = field(default_factory=dict)
    workers: list[Process] = field(default_factory=list)

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/v1"

    @property
    def api_key(self) -> str:
        return (self.folder / "c1" / "api_key").read_text(encoding="ascii").strip()

    def controller(self, name: str) -> Path:
        """The controller's bundle of a node."""
        return self.folder / f"{name}-controller.json"

    def environ(self) -> dict[str, str]:
        return {"TEEHOUSE_DATABASE_URL": self.database_url, "TEEHOUSE_PUBLIC_URL": self.url}

    @property
    def place(self) -> Place:
        """The first replica's folder, and the database."""
        return Place(self.folder / "c1", self.folder / "database-url")

    async def run_node(self, name: str) -> None:
        """A node of the same emulated root, in a folder of its own."""
        place, address = self.folder / name, f"127.0.0.1:{free_port()}"
        for out, controller in ((place / "node.json", None), (self.controller(name), "cloud")):
            place.mkdir(exist_ok=True)
            await asyncio.to_thread(write_bundle, place, out, name, address, controller=controller)
        self.nodes[name] = await asyncio.to_thread(
            started,
            self.folder / f"{name}.log",
            (
                "node",
                "--emulated",
                "--dir",
                str(place),
                "--bundle",
                str(place / "node.json"),
                "--seed",
                self.seed,
            ),
            until="mutual TLS",
        )

    async def serve(self, number: int, role: str, *more: str) -> Process:
        """A replica on a free port, in the folder of that number."""
        made = await asyncio.to_thread(
            started,
            self.folder / f"{role}-{number}.log",
            (
                "cloud",
                "serve",
                "--role",
                role,
                "--tcp",
                "127.0.0.1:0",
                "--dir",
                str(self.folder / f"c{number}"),
                *more,
            ),
            until=f"{'API' if role == 'api' else role} at http://",
            environ=self.environ(),
        )
        if role == "api":
            self.apis[made.url()] = made
            self.balancer.hosts.append(made.url())
        else:
            self.workers.append(made)
        return made

    def copy_folder(self, number: int) -> None:
        """What another replica needs of the first one's folder."""
        source, target = self.folder / "c1", self.folder / f"c{number}"
        target.mkdir(mode=0o700)
        shutil.copy2(source / "secret-key", target)
        shutil.copytree(source / "nodes", target / "nodes")

    def end(self) -> None:
        for process in (*self.apis.values(), *self.workers, *self.nodes.values()):
            process.kill()


@asynccontextmanager
async def house(
    folder: Path, database_url: str, *, nodes: int = 1, replicas: int = 2
) -> AsyncIterator[House]:
    """A KMS, nodes, and so many API replicas and workers, set up as the commands for operators do it."""
    seed, clock = secrets.token_bytes(32), SystemClock()
    installation = open_installation(folder / "k", clock, seed=seed)
    async with serve_kms(installation) as kms, balanced() as (balancer, url):
        made = House(folder, database_url, kms.auth_file, url, balancer, seed.hex())
        write_atomic(folder / "database-url", database_url.encode())
        root = folder / "kms-root.pem"
        root.write_text(installation.kms_root_pem, encoding="ascii")
        names = [f"tea-{number}" for number in range(1, nodes + 1)]
        try:
            await asyncio.gather(
                cloud_setup.init(
                    made.place, clock, username="admin", email="a@localhost", workspace="default"
                ),
                *(made.run_node(name) for name in names),
            )
            await cloud_setup.add_kms(made.place, clock, KmsOptions(kms.url, "phala", root))
            for name in names:
                options = NodeOptions(made.controller(name), REGION, ("phala",), 20, auth_file=kms.auth_file)
                await cloud_setup.add_node(made.place, clock, options)
            for number in range(2, replicas + 1):
                made.copy_folder(number)
            await asyncio.gather(
                *(made.serve(number, "api") for number in range(1, replicas + 1)),
                *(
                    made.serve(number, "worker", "--auth-file", str(kms.auth_file))
                    for number in range(1, replicas + 1)
                ),
            )
            yield made
        finally:
            made.end()
