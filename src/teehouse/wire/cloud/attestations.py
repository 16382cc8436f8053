"""Attestations of apps and CVMs (cloud-api.md 11.7, 12.10)."""

from pydantic import StrictInt, StrictStr

from teehouse.wire.cloud.base import Body


class LogEvent(Body):
    """One event of the log: register, type, digest (96 hex digits), name and payload (hex)."""

    imr: int
    event_type: int
    digest: str
    event: str
    event_payload: str
    version: int | None = None
    preimage: str | None = None


class TcbInfo(Body):
    """The registers (96 hex digits each), the log they are made of, and the exact app-compose text.

    The hashes have 64 hex digits; what they are of says guest-agent.md 4.4.1.
    """

    mrtd: str
    rootfs_hash: str | None = None
    rtmr0: str
    rtmr1: str
    rtmr2: str
    rtmr3: str
    mr_aggregated: str | None = None
    os_image_hash: str | None = None
    compose_hash: str | None = None
    device_id: str | None = None
    event_log: list[LogEvent]
    app_compose: str


class CertificateSubject(Body):
    """Whom a certificate is of."""

    common_name: str | None
    organization: str | None
    country: str | None
    state: str | None
    locality: str | None


class CertificateIssuer(Body):
    """Who signed a certificate."""

    common_name: str | None
    organization: str | None
    country: str | None


class Certificate(Body):
    """A certificate of an app's chain. `fingerprint` is SHA-256 over its DER; `quote` the one it carries, hex."""

    subject: CertificateSubject
    issuer: CertificateIssuer
    serial_number: str
    not_before: str
    not_after: str
    version: str
    fingerprint: str
    signature_algorithm: str
    sans: list[str] | None
    is_ca: bool
    position_in_chain: int | None
    quote: str | None
    app_id: str | None = None
    cert_usage: str | None = None


class Instance(Body):
    """Evidence of one instance, or why there is none. The last seven members from V3 on.

    `vm_config` is JSON text (guest-agent.md 4.4), for verifiers; the published clients do not know it.
    """

    vm_uuid: str | None = None
    name: str = ""
    instance_id: str | None = None
    status: str = ""
    image_version: str | None = None
    quote: str | None = None
    ppid: str = ""
    device_id: str = ""
    tcb_info: TcbInfo | None = None
    app_certificates: list[Certificate] | None = None
    compose_file: str | None = None
    error: str | None = None
    vm_config: str | None = None
    ppid_sha256: str | None = None
    fmspc: str | None = None
    tee_tcb_svn: str | None = None
    mr_config_id: str | None = None
    cpusvn: str | None = None
    pcesvn: int | None = None
    eventlog: list[LogEvent] | None = None


class AttestedKms(Body):
    """The KMS behind an app. `chain_id` is text up to V2, a number from V3 on."""

    contract_address: str
    chain_id: StrictInt | StrictStr | None
    version: str
    url: str
    gateway_app_id: str | None
    gateway_app_url: str
    kms_type: str


class AppAttestation(Body):
    """GET /apps/{app_id}/attestations.

    `emulated` says that quotes verify under an emulated root, whose name is `root`; neither is known to the
    published clients.
    """

    app_id: str
    contract_address: str
    kms_info: AttestedKms
    instances: list[Instance]
    kms_guest_agent_info: dict[str, object] | None
    gateway_guest_agent_info: dict[str, object] | None
    qemu_version: str | None
    emulated: bool = False
    root: str | None = None


class CvmAttestation(Body):
    """GET /cvms/{cvm_id}/attestation. `quote` (hex) and `vm_config` are unknown to the published clients."""

    name: str | None
    is_online: bool
    is_public: bool = True
    error: str | None
    app_certificates: list[Certificate] | None
    tcb_info: TcbInfo | None
    compose_file: str | None
    quote: str | None = None
    vm_config: str | None = None
    emulated: bool = False
    root: str | None = None
