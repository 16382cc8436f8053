"""An emulated installation whose owner lies: quotes and collateral with one fault each, all else really signed.

Whoever holds the keys of a root can sign anything, so the only faults that cannot be made here are those
of a signature itself; for these there is `flip`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from support import emulated
from teehouse.attestation.abi import Quote, TdReport, encode_quote, parse_quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.envelope import Attestation
from teehouse.attestation.eventlog import Event, RuntimeEvent, name_boot_events, replay_runtime
from teehouse.attestation.measure import expected_registers
from teehouse.attestation.mrconfig import mr_config_id_v1
from teehouse.attestation.roots import TrustedRoot
from teehouse.attestation.vmconfig import parse_vm_config
from teehouse.base.hashes import sha256
from teehouse.tee_emulated.image import EmulatedImage
from teehouse.tee_emulated.pki import EmulatedPki
from teehouse.tee_emulated.quote import raw_signature

NOW = emulated.NOW
MEMORY = 2 << 30  # bytes
COMPOSE_HASH = sha256(b"an app-compose.json")
APP_ID = COMPOSE_HASH[:20]
INSTANCE_ID = bytes(range(20))
Edit = Callable[[dict[str, Any]], None]


def flip(raw: bytes, offset: int, bit: int = 0) -> bytes:
    """`raw` with one bit turned."""
    return raw[:offset] + bytes([raw[offset] ^ 1 << bit]) + raw[offset + 1 :]


@dataclass(frozen=True)
class Claims:
    """What an attested TD says of itself; honest as it stands."""

    events: tuple[RuntimeEvent, ...] = (
        RuntimeEvent("system-preparing", b""),
        RuntimeEvent("app-id", APP_ID),
        RuntimeEvent("compose-hash", COMPOSE_HASH),
        RuntimeEvent("instance-id", INSTANCE_ID),
        RuntimeEvent("boot-mr-done", b""),
        RuntimeEvent("key-provider", b'{"name":"kms","id":"abcd"}'),
        RuntimeEvent("system-ready", b""),
        RuntimeEvent("app-id", bytes(20)),  # an application's, too late to count
    )
    report_data: bytes = bytes(range(64))
    mr_config_id: bytes = mr_config_id_v1(COMPOSE_HASH)


class Adversary:
    """Owner of an emulated root; `revoked` as `EmulatedPki` takes it."""

    def __init__(self, revoked: frozenset[str] = frozenset(), seed: bytes = emulated.SEED) -> None:
        self.pki = EmulatedPki(seed, revoked)
        self.host = self.pki.host("alpha")
        self.root = TrustedRoot.emulated_root(self.pki.root_der)

    def quote(self, td: TdReport | None = None) -> bytes:
        """An honest quote over `td`."""
        return self.host.quote((td or emulated.td_report()).encode())

    def forge(self, edit: Callable[[Quote], Quote], td: TdReport | None = None) -> bytes:
        """A quote changed by `edit`, then signed again: by the PCK key, bound, by the attestation key."""
        made = edit(parse_quote(self.quote(td)))
        bound = sha256(made.attestation_key + made.qe_auth_data) + bytes(32)
        made = replace(made, qe_report=replace(made.qe_report, report_data=bound))
        made = replace(made, qe_report_signature=raw_signature(self.host.pck_key, made.qe_report_raw))
        made = replace(made, signature=raw_signature(self.host.attestation_key, made.signed))
        return encode_quote(made)

    def sgx_quote(self, attributes: bytes = b"\x05" + bytes(15), version: int = 3) -> bytes:
        """A quote of an SGX enclave by the same keys, with a quoting enclave for SGX."""

        def edit(quote: Quote) -> Quote:
            body = replace(quote.qe_report, attributes=attributes, report_data=bytes(range(64)))
            return replace(quote, header=replace(quote.header, version=version, tee_type=0), body=body)

        return self.forge(edit)

    def sgx_collateral(self, tcb: Edit | None = None) -> Collateral:
        """Collateral for `sgx_quote`: documents of the kinds SGX and QE."""

        def of_sgx(document: dict[str, Any]) -> None:
            document["id"] = "SGX"
            del document["tdxModule"], document["tdxModuleIdentities"]
            for level in document["tcbLevels"]:
                del level["tcb"]["tdxtcbcomponents"]
            if tcb is not None:
                tcb(document)

        return self.collateral(tcb=of_sgx, qe=lambda document: document.update(id="QE"))

    def attest(self, claims: "Claims | None" = None) -> Attestation:
        """The attestation of a TD that booted the emulated image and then emitted the claimed events."""
        claims = claims or Claims()
        image = EmulatedImage.default()
        config = image.vm_config(2, MEMORY)
        registers = expected_registers(image.measurement, parse_vm_config(config), image.acpi)
        td = emulated.td_report(
            mr_td=registers.mrtd,
            rt_mr0=registers.rtmr0,
            rt_mr1=registers.rtmr1,
            rt_mr2=registers.rtmr2,
            rt_mr3=replay_runtime(claims.events),
            mr_config_id=claims.mr_config_id,
            report_data=claims.report_data,
        )
        boot = [Event(e.imr, e.event_type, e.digest, "", e.payload) for e in image.boot_events(MEMORY)]
        log = name_boot_events([*boot, *map(Event.runtime, claims.events)])
        return Attestation(self.quote(td), log, claims.events, claims.report_data, config)

    def collateral(
        self,
        *,
        tcb: Edit | None = None,
        qe: Edit | None = None,
        now: datetime = NOW,
        signer: ec.EllipticCurvePrivateKey | None = None,
        **members: Any,
    ) -> Collateral:
        """Collateral as of `now`; `tcb` and `qe` edit the documents before they are signed by `signer`.

        `members` replace fields of the result, after all is signed.
        """
        issued, next_update = now - timedelta(days=1), now + timedelta(days=29)
        honest = emulated.collateral().bundle()
        key = signer or self.pki.tcb_signer_key
        texts, signatures = {}, {}
        for name, edit in (("tcb_info", tcb), ("qe_identity", qe)):
            document = json.loads(honest[name])
            document |= {"issueDate": _date(issued), "nextUpdate": _date(next_update)}
            if edit is not None:
                edit(document)
            texts[name] = json.dumps(document, separators=(",", ":"))
            signatures[name] = raw_signature(key, texts[name].encode())
        made = Collateral(
            pck_crl_issuer_chain=self.pki.pck_crl_issuer_chain,
            root_ca_crl=self.pki.root_crl(issued, next_update),
            pck_crl=self.pki.pck_crl(issued, next_update),
            tcb_info_issuer_chain=self.pki.tcb_issuer_chain,
            tcb_info=texts["tcb_info"],
            tcb_info_signature=signatures["tcb_info"],
            qe_identity_issuer_chain=self.pki.tcb_issuer_chain,
            qe_identity=texts["qe_identity"],
            qe_identity_signature=signatures["qe_identity"],
        )
        return replace(made, **members)


def _date(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def raise_components(kind: str, number: int, svn: int) -> Edit:
    """TCB info all of whose levels need `svn` in one component; `kind` is sgx, tdx or pcesvn."""

    def edit(document: dict[str, Any]) -> None:
        for level in document["tcbLevels"]:
            if kind == "pcesvn":
                level["tcb"]["pcesvn"] = svn
            else:
                level["tcb"][f"{kind}tcbcomponents"][number]["svn"] = svn

    return edit


def every_status(status: str) -> Edit:
    """A document all of whose levels have `status`."""

    def edit(document: dict[str, Any]) -> None:
        for level in document["tcbLevels"]:
            level["tcbStatus"] = status

    return edit
