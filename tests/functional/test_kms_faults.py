"""Evidence with one fault each, shown to a KMS of an installation over real TLS; and a KMS that is away at a boot.

The adversary owns the emulated root, so everything is really signed; a CVM's way is gone: temporary CA, a certificate
with evidence, GetAppKey.
"""

import asyncio
import base64
import json
import logging
import socket
import ssl
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from support import emulated
from support.adversary import APP_ID, COMPOSE_HASH, INSTANCE_ID, Adversary, Claims
from support.kms_support import BOOT, READY
from teehouse.attestation.certificate import certificate_report_data
from teehouse.attestation.envelope import Attestation, encode_attestation
from teehouse.attestation.identity import derive_app_id
from teehouse.attestation.mrconfig import mr_config_id_v1
from teehouse.base.hashes import sha256
from teehouse.keys.appkeys import issue_app_keys
from teehouse.keys.certificate import Issuer
from teehouse.keys.derive import p256_scalar
from teehouse.keys.pem import certificate_der, load_p256_private_key, spki_der
from teehouse.kms.audit import Record, read_records, verify_chain
from teehouse.kms.client.appkeys import Patience
from teehouse.kms.client.temporary import evidence_certificate
from teehouse.kms.tls import client_context
from teehouse.node.api import CvmPhase, CvmSpec, settled
from teehouse.stack.installation import Installation, open_installation
from teehouse.stack.kms_audit import show_audit
from teehouse.stack.kms_emulated import PORT_FILE, ServedKms, allow, serve_kms
from teehouse.stack.node_emulated import emulated_node
from teehouse.tee_emulated.collateral import EmulatedCollateral

HONEST = Adversary()
GONE = 60  # days after which collateral is stale


@dataclass
class MovedClock:
    """The machine's clock, `ahead` of itself."""

    ahead: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Documents:
    """Collateral as a PCCS holds it: the same documents until somebody replaces them."""

    documents: dict[str, str]

    def bundle(self) -> dict[str, str]:
        return self.documents


@dataclass
class Scene:
    """A KMS that allows the honest app, and everything it works with."""

    installation: Installation
    clock: MovedClock
    kms: ServedKms
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def report_data(self) -> bytes:
        """What binds evidence to this client's key."""
        return certificate_report_data(spki_der(self.key.public_key()))

    def evidence(self, claims: Claims | None = None, who: Adversary = HONEST) -> Attestation:
        return who.attest(replace(claims or Claims(events=BOOT), report_data=self.report_data))

    async def temporary_ca(self) -> Issuer:
        async with httpx.AsyncClient(verify=client_context(), trust_env=False) as client:
            answer = (await client.post(f"{self.kms.url}/prpc/KMS.GetTempCaCert", json={})).json()
        return Issuer(load_p256_private_key(answer["temp_ca_key"]), certificate_der(answer["temp_ca_cert"]))

    async def ask(self, attestation: Attestation) -> httpx.Response:
        """GetAppKey, over TLS with a certificate that carries the attestation."""
        issuer, now = await self.temporary_ca(), datetime.now(UTC)
        shown = evidence_certificate(issuer, self.key, encode_attestation(attestation), now)
        context = client_context(self.key, certificate_der(shown.certificate_pem))
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            return await client.post(f"{self.kms.url}/prpc/KMS.GetAppKey", json={"api_version": 1})


@asynccontextmanager
async def scene(directory: Path, *, revoked: frozenset[str] = frozenset()) -> AsyncIterator[Scene]:
    clock = MovedClock()
    installation = open_installation(directory / "t", clock, seed=emulated.SEED)
    authority = Adversary(revoked=revoked).pki
    documents = Documents(EmulatedCollateral(authority, clock).bundle())
    installation = replace(installation, collateral=cast("EmulatedCollateral", documents))
    async with serve_kms(installation) as kms:
        allow(kms.auth_file, app=(APP_ID, COMPOSE_HASH))
        yield Scene(installation, clock, kms)


def honest(scene: Scene) -> Attestation:
    return scene.evidence()


def wrong_root(scene: Scene) -> Attestation:
    return scene.evidence(who=Adversary(seed=bytes(32)))


def debug_td(scene: Scene) -> Attestation:
    td = emulated.td_report(
        td_attributes=bytes.fromhex("0100001000000000"), report_data=scene.report_data, mr_config_id=bytes(48)
    )
    return replace(scene.evidence(), quote=HONEST.quote(td))


def other_app_than_measured(scene: Scene) -> Attestation:
    """The log names an app that RTMR3 has not measured."""
    genuine = scene.evidence()
    events = tuple(replace(e, payload=bytes(20)) if e.event == "app-id" else e for e in BOOT)
    log = tuple(event for event in genuine.event_log if event.imr != 3)
    return replace(genuine, runtime_events=events, event_log=log)


def altered_compose(scene: Scene) -> Attestation:
    """The log names another compose than the host fixed in MRCONFIGID."""
    other = mr_config_id_v1(sha256(b"another app-compose.json"))
    return scene.evidence(Claims(events=BOOT, mr_config_id=other))


def unknown_compose(scene: Scene) -> Attestation:
    """All of it measured and consistent, but nobody has allowed this compose."""
    compose_hash = sha256(b"a new version of app-compose.json")
    events = tuple(replace(e, payload=compose_hash) if e.event == "compose-hash" else e for e in BOOT)
    return scene.evidence(Claims(events=events, mr_config_id=mr_config_id_v1(compose_hash)))


def stale_collateral(scene: Scene) -> Attestation:
    scene.clock.ahead = timedelta(days=GONE)
    return scene.evidence()


def revoked_host(scene: Scene) -> Attestation:
    return scene.evidence(who=Adversary(revoked=frozenset({"tdx-pck:alpha"})))


def replayed_certificate(scene: Scene) -> Attestation:
    """The evidence of another client's certificate, which was genuine there, beside one's own key."""
    victim = Scene(scene.installation, scene.clock, scene.kms)
    return victim.evidence()


def after_boot_mr_done(scene: Scene) -> Attestation:
    return scene.evidence(Claims(events=READY))


Fault = Callable[[Scene], Attestation]
FAULTS: list[tuple[Fault, int, str]] = [
    (wrong_root, 400, "Quote verification failed: "),
    (debug_td, 400, "Quote verification failed: the TD's DEBUG attribute (bit 0): "),
    (other_app_than_measured, 400, "Event log verification failed: RTMR3 of the quote and of the log: "),
    (altered_compose, 400, "Event log verification failed: MR_CONFIG_ID: expected "),
    (unknown_compose, 400, "Boot denied: "),
    (stale_collateral, 503, "Quote verification failed: TCB info: expected valid at "),
    (revoked_host, 400, "Quote verification failed: the PCK certificate: expected not in its issuer's CRL"),
    (replayed_certificate, 400, "report data mismatch: expected "),
    (after_boot_mr_done, 400, "Event log verification failed: expected boot-mr-done as the last event when "),
]


@pytest.fixture
def short() -> Iterator[Path]:
    # Sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="th-") as directory:
        yield Path(directory)


def hand_outs(kms: ServedKms) -> list[Record]:
    """What the audit log says of GetAppKey."""
    return [record for record in read_records(kms.audit_file) if record.rpc == "GetAppKey"]


def secrets_of(installation: Installation) -> list[bytes]:
    """What must never be seen: the KMS's root keys, and the keys of the app that the evidence is about."""
    root = installation.kms
    issued = issue_app_keys(root, APP_ID, INSTANCE_ID, installation.created).keys
    of_app = (issued.disk_crypt_key, issued.env_crypt_key, issued.k256_key)
    return [root.k256_key, p256_scalar(root.ca.key), installation.pki.seed, *of_app]


def assert_nothing_leaked(installation: Installation, *texts: str) -> None:
    shown = "".join(texts)
    assert "PRIVATE KEY" not in shown
    for secret in secrets_of(installation):
        for form in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
            assert form not in shown


@pytest.mark.parametrize("case", FAULTS, ids=[fault.__name__ for fault, _, _ in FAULTS])
async def test_faulty_evidence_is_refused_and_on_record(
    case: tuple[Fault, int, str],
    short: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fault, status, text = case
    caplog.set_level(logging.DEBUG)
    revoked = frozenset({"tdx-pck:alpha"}) if fault is revoked_host else frozenset[str]()
    async with scene(short, revoked=revoked) as made:
        await made.temporary_ca()  # the KMS has proven itself
        attestation = fault(made)
        response = await made.ask(attestation)
        reason = response.json()["error"]
        assert (response.status_code, reason[: len(text) + 17]) == (status, f"App not allowed: {text}")
        assert set(response.json()) == {"error"}

        [record] = hand_outs(made.kms)
        assert (record.decision, record.reason) == ("refused", reason[:1024])
        assert record.evidence == sha256(attestation.quote).hex()
        assert [finding.ok for finding in verify_chain(made.kms.audit_file)] == [True]

        # It was the fault alone: without it the keys are given.
        if fault not in {revoked_host, stale_collateral}:
            given = await made.ask(honest(made))
            assert given.status_code == 200
            assert bytes.fromhex(given.json()["k256_key"]) in secrets_of(made.installation)
            assert [each.decision for each in hand_outs(made.kms)] == ["refused", "allowed"]
    code = await asyncio.to_thread(show_audit, made.installation.directory, last=0, noted=None, as_json=True)
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (code, report["accepted"]) == (0, True)
    assert reason[:1024] in [record["reason"] for record in report["records"]]
    log = "\n".join(logging.Formatter().format(record) for record in caplog.records)
    audit = made.kms.audit_file.read_text()
    assert_nothing_leaked(made.installation, response.text, log, audit, printed.out, printed.err)


async def test_a_stolen_certificate_does_not_even_make_a_connection(short: Path) -> None:
    """TLS: whoever shows a certificate has to sign with its key."""
    async with scene(short) as made:
        shown = evidence_certificate(
            await made.temporary_ca(), made.key, encode_attestation(honest(made)), datetime.now(UTC)
        )
        with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
            client_context(ec.generate_private_key(ec.SECP256R1()), certificate_der(shown.certificate_pem))


async def test_an_app_that_is_no_longer_allowed_gets_nothing_at_the_next_request(short: Path) -> None:
    async with scene(short) as made:
        assert (await made.ask(honest(made))).status_code == 200
        config = json.loads(made.kms.auth_file.read_text())
        config["apps"][f"0x{APP_ID.hex()}"]["composeHashes"] = []
        made.kms.auth_file.write_text(json.dumps(config))
        refused = await made.ask(honest(made))
        assert (refused.status_code, "Boot denied" in refused.json()["error"]) == (400, True)


# A KMS that is away when a CVM boots

APP = json.dumps(
    {
        "manifest_version": 2,
        "name": "app",
        "runner": "bash",
        "bash_script": "exec sleep 1000\n",
        "key_provider": "kms",
    }
).encode()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def app(installation: Installation) -> CvmSpec:
    """A CVM that the KMS will allow, when there is one again, at the port that the installation's has."""
    allow(installation.state / "auth-config.json", app=(derive_app_id(APP), sha256(APP)))
    return CvmSpec(uuid.uuid4().hex, "app", APP)


def tries(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for record in caplog.records if "asking again" in (text := record.getMessage())]


async def test_without_a_kms_a_boot_ends_at_its_deadline(
    short: Path, caplog: pytest.LogCaptureFixture
) -> None:
    installation = open_installation(short / "t", MovedClock())
    port = closed_port()
    (installation.state / PORT_FILE).write_text(str(port))
    url, spec = f"https://localhost:{port}", app(installation)
    patience = Patience(deadline=1.0, first_pause=0.05, longest_pause=0.2, exchange_limit=1.0)
    async with emulated_node(installation, (url,), patience=patience) as node:
        await node.create(spec)
        await node.start(spec.cvm_id)
        state = await settled(node, spec.cvm_id, timeout_seconds=30)
        assert (state.phase, state.step, state.boot_count) == (CvmPhase.ERROR, "keys", 1)
        error: Any = state.error
        assert (error.code, error.check) == ("node.boot.keys", "kms.deadline")
        assert error.sentence().startswith(
            f"boot step keys: no KMS gave keys in time: expected an answer within 1 seconds from {url}, "
            "found none in "
        )
        assert error.sentence().endswith("(start the KMS, or check kms_urls; then start the CVM again)")
        waits = [float(text.partition("again in ")[2].partition(" s")[0]) for text in tries(caplog)]
        assert len(waits) >= 4
        assert max(waits) <= 0.2
        assert max(waits[:1]) < max(waits)  # the pauses grow
        assert not (installation.directory / "s" / spec.cvm_id).exists()
        directory = installation.state / "node" / "cvms" / spec.cvm_id
        assert not (directory / "machine").exists()

        async with serve_kms(installation) as kms:
            assert kms.url == url
            await node.start(spec.cvm_id)
            state = await settled(node, spec.cvm_id, timeout_seconds=30)
            assert (state.phase, state.error, state.boot_count) == (CvmPhase.RUNNING, None, 2)
            await node.remove(spec.cvm_id)
            await settled(node, spec.cvm_id, timeout_seconds=30)


async def test_a_kms_that_comes_back_in_time_is_found(short: Path, caplog: pytest.LogCaptureFixture) -> None:
    installation = open_installation(short / "t", MovedClock())
    port = closed_port()
    (installation.state / PORT_FILE).write_text(str(port))
    url, spec = f"https://localhost:{port}", app(installation)
    patience = Patience(deadline=60.0, first_pause=0.05, longest_pause=0.2)
    async with emulated_node(installation, (url,), patience=patience) as node:
        await node.create(spec)
        await node.start(spec.cvm_id)
        async with asyncio.timeout(30):
            while len(tries(caplog)) < 3:  # noqa: ASYNC110 - what is waited for is a line of the log
                await asyncio.sleep(0.02)
        state = await node.state(spec.cvm_id)
        assert (state.phase, state.step) == (CvmPhase.BOOTING, "keys")
        async with serve_kms(installation) as kms:
            assert kms.url == url
            state = await settled(node, spec.cvm_id, timeout_seconds=30)
            assert (state.phase, state.boot_count) == (CvmPhase.RUNNING, 1)
            assert [each.decision for each in hand_outs(kms)] == ["allowed"]
            await node.remove(spec.cvm_id)
            await settled(node, spec.cvm_id, timeout_seconds=30)
