"""app-compose.json: what an app is made of, and what may be seen of it (guest-agent.md 12.1, trust.md 14).

Rules:

1. The compose hash is SHA-256 over the bytes of the file, which are therefore kept and never written anew.
2. Every fault is reported at once.
3. Members that nobody here knows are ignored, those of `requirements` excepted: an unknown requirement
   cannot be met.
4. `key_provider` wins over the flags from which it is derived when absent: KMS before local before none. The old
   `features` list still switches the KMS and the gateway on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from teehouse.base.hashes import sha256
from teehouse.wire.faults import kind
from teehouse.wire.members import Members, hex_bytes

COMPOSE_LIMIT = 4 * 1024 * 1024  # bytes
INIT_SCRIPT_LIMIT = 5
DIGEST_SIZE = 32  # bytes

KeyProvider = Literal["none", "kms", "local", "tpm"]
Runner = Literal["docker-compose", "nerdctl-compose", "bash"]

_RUNNERS = ("docker-compose", "nerdctl-compose", "bash")
_KEY_PROVIDERS = ("none", "kms", "local", "tpm")
_REQUIREMENTS = frozenset(
    {"os_version", "platforms", "tdx_measure_acpi_tables", "launch_token_hash", "gpu_policy"}
)


@dataclass(frozen=True, slots=True)
class AppCompose:
    """A parsed app-compose; `raw` is the file, byte for byte.

    `swap_size` is in bytes. `key_provider_id` and `launch_token_hash` are bytes; the former is empty when the app
    does not pin its key provider.
    """

    raw: bytes = field(repr=False)
    manifest_version: int
    name: str
    runner: Runner
    key_provider: KeyProvider
    features: tuple[str, ...] = ()
    snapshotter: str | None = None
    docker_compose_file: str | None = field(default=None, repr=False)
    pre_launch_script: str | None = field(default=None, repr=False)
    bash_script: str | None = field(default=None, repr=False)
    init_scripts: tuple[str, ...] = field(default=(), repr=False)
    public_logs: bool = False
    public_sysinfo: bool = False
    public_tcbinfo: bool = True
    kms_enabled: bool = False
    gateway_enabled: bool = False
    local_key_provider_enabled: bool = False
    key_provider_id: bytes = b""
    allowed_envs: tuple[str, ...] = ()
    no_instance_id: bool = False
    secure_time: bool = True
    storage_fs: str | None = None
    swap_size: int = 0
    event_log_version: int = 1
    port_policy: Mapping[str, object] = field(default_factory=dict)
    requirements: Mapping[str, object] = field(default_factory=dict)
    verity_volumes: object = None

    @property
    def text(self) -> str:
        """The file as text, as `tcb_info.app_compose` returns it."""
        return self.raw.decode()

    @property
    def compose_hash(self) -> bytes:
        """SHA-256 of the file (rule 1), 32 bytes."""
        return sha256(self.raw)

    @property
    def init_script_hashes(self) -> tuple[bytes, ...]:
        """SHA-256 of each init script's UTF-8 text, 32 bytes each (trust.md 8.3)."""
        return tuple(sha256(script.encode()) for script in self.init_scripts)

    @property
    def launch_token_hash(self) -> bytes | None:
        """What the launch token has to hash to, 32 bytes, or None when none is asked for."""
        wanted = self.requirements.get("launch_token_hash")
        return None if wanted is None else hex_bytes(str(wanted))


def parse_app_compose(raw: str | bytes) -> AppCompose:
    """Read app-compose.json. Raises `FileError` (a `MisuseError`) with every fault (rule 2)."""
    data = raw.encode(errors="surrogatepass") if isinstance(raw, str) else raw
    members = Members("app-compose", data, limit=COMPOSE_LIMIT)
    for key in ("manifest_version", "name", "runner"):
        members.required(key)
    features = members.texts("features")
    kms_enabled = members.flag("kms_enabled") or "kms" in features
    gateway = members.flag(members.first("gateway_enabled", "tproxy_enabled")) or "tproxy-net" in features
    local = members.flag("local_key_provider_enabled")
    derived = "kms" if kms_enabled else "local" if local else "none"
    compose = AppCompose(
        raw=data,
        manifest_version=_manifest_version(members),
        name=members.text("name") or "",
        runner=cast("Runner", members.choice("runner", _RUNNERS)),
        key_provider=cast("KeyProvider", members.choice("key_provider", _KEY_PROVIDERS) or derived),
        features=features,
        snapshotter=members.choice("snapshotter", ("overlayfs", "stargz")),
        docker_compose_file=members.text("docker_compose_file"),
        pre_launch_script=members.text("pre_launch_script"),
        bash_script=members.text("bash_script"),
        init_scripts=_init_scripts(members),
        public_logs=members.flag("public_logs"),
        public_sysinfo=members.flag("public_sysinfo"),
        public_tcbinfo=members.flag("public_tcbinfo", default=True),
        kms_enabled=kms_enabled,
        gateway_enabled=gateway,
        local_key_provider_enabled=local,
        key_provider_id=members.octets("key_provider_id"),
        allowed_envs=members.texts("allowed_envs"),
        no_instance_id=members.flag("no_instance_id"),
        secure_time=members.flag("secure_time", default=True),
        storage_fs=members.choice("storage_fs", ("zfs", "ext4")),
        swap_size=members.size("swap_size"),
        event_log_version=_event_log_version(members),
        port_policy=members.table("port_policy"),
        requirements=_requirements(members),
        verity_volumes=members.plain("verity_volumes"),
    )
    members.finish()
    return compose


def _manifest_version(members: Members) -> int:
    """1 or 2 as a number, or any version as a string without sign and leading zeros."""
    value = members.value("manifest_version")
    if type(value) is int and value in (1, 2):
        return value
    if isinstance(value, str) and len(value) <= 9 and value.isdecimal() and value == str(int(value)) != "0":
        return int(value)
    if value is not None:
        members.fault("manifest_version", '1, 2, or a string such as "3"', kind(value))
    return 0


def _event_log_version(members: Members) -> int:
    value = members.value("event_log_version")
    if type(value) is int and value in (1, 2):
        return value
    if value is not None:
        members.fault("event_log_version", "1 or 2", kind(value))
    return 1


def _init_scripts(members: Members) -> tuple[str, ...]:
    if isinstance(members.value("init_script"), str):
        script = members.text("init_script")
        return () if script is None else (script,)
    scripts = members.texts("init_script")
    if len(scripts) > INIT_SCRIPT_LIMIT:
        members.fault("init_script", f"at most {INIT_SCRIPT_LIMIT} scripts", str(len(scripts)))
    return scripts


def _requirements(members: Members) -> Mapping[str, object]:
    """Rule 3."""
    wanted = members.table("requirements")
    for name in sorted(set(wanted) - _REQUIREMENTS):
        members.fault(f"requirements.{name}", "a requirement that is known", "one that is not")
    token_hash = wanted.get("launch_token_hash")
    if token_hash is not None:
        raw = hex_bytes(token_hash) if isinstance(token_hash, str) else None
        if raw is None or len(raw) != DIGEST_SIZE:
            members.fault("requirements.launch_token_hash", "a SHA-256 digest in hex", "something else")
    return wanted
