"""`teehouse verify` from outside: one line per check, exit codes per outcome, EMULATED to be seen."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from support.adversary import APP_ID, COMPOSE_HASH, NOW, Adversary, every_status, flip
from support.attestation_support import sample
from support.verification_support import ra_tls_certificate
from teehouse.attestation.envelope import encode_attestation
from teehouse.attestation.eventlog import encode_event_log
from teehouse.attestation.report import EMULATED_NOTICE
from teehouse.base.findings import OUTCOME_TABLE, Outcome
from teehouse.cli.verify import verify_app
from teehouse.collateral.files import save_collateral
from teehouse.tee_emulated.image import EmulatedImage

OWNER = Adversary()
MADE = OWNER.attest()
AT = NOW.isoformat()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    (tmp_path / "root.pem").write_text(OWNER.pki.root_pem)
    save_collateral(tmp_path / "collateral.json", OWNER.collateral())
    (tmp_path / "quote").write_bytes(MADE.quote)
    (tmp_path / "log.json").write_text(encode_event_log(MADE.event_log))
    (tmp_path / "attestation").write_bytes(encode_attestation(MADE))
    return tmp_path


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(verify_app, [str(argument) for argument in arguments], input=stdin)


def emulated(folder: Path, kind: str, file: str, *more: object, stdin: bytes | None = None) -> Result:
    path = file if file == "-" else folder / file
    return run(
        kind,
        path,
        "--root",
        f"emulated:{folder / 'root.pem'}",
        "--collateral",
        folder / "collateral.json",
        "--at",
        AT,
        *more,
        stdin=stdin,
    )


def test_an_accepted_attestation_line_by_line(folder: Path) -> None:
    image = EmulatedImage.default().os_image_hash.hex()
    result = emulated(
        folder, "attestation", "attestation", "--expect-app-id", APP_ID.hex(), "--expect-image", image
    )
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert lines[0] == EMULATED_NOTICE
    marks = [line.split()[:3] for line in lines if line[0] == "✓"]
    assert ["✓", "V7", "pck.chain:"] in marks
    assert ["✓", "V28", "app.identity:"] in marks
    assert ["✓", "E2", "validate.app-id:"] in marks
    assert ["✓", "E3", "validate.os-image-hash:"] in marks
    assert [mark[1] for mark in marks] == sorted((mark[1] for mark in marks), key=_order)
    assert "✗" not in result.output
    assert f"  app id {APP_ID.hex()}, compose hash {COMPOSE_HASH.hex()}" in lines
    assert lines[-1] == (
        f"ACCEPTED EMULATED under root {OWNER.root.name}, TCB UpToDate, as of 2026-11-20T12:00:00+00:00"
    )


def _order(check: str) -> tuple[int, int]:
    return "VCPE".index(check[0]), int(check[1:])


def test_the_same_as_json(folder: Path) -> None:
    result = emulated(folder, "attestation", "attestation", "--json")
    members: dict[str, Any] = json.loads(result.output)
    assert result.exit_code == 0
    assert members["notice"] == EMULATED_NOTICE
    assert (members["root"], members["emulated"], members["accepted"]) == (OWNER.root.name, True, True)
    assert members["app_info"]["app_id"] == APP_ID.hex()


def test_what_fails_is_marked_and_what_could_not_be_judged_is_named(folder: Path) -> None:
    (folder / "bad").write_bytes(flip(MADE.quote, 700))
    result = emulated(folder, "quote", "bad")
    assert result.exit_code == 10
    assert (
        "✗ V11 qe-report.key-binding: the QE report vouches for the attestation key: expected"
        in result.output
    )
    assert "? not judged, because of what failed: V20\n" in result.output
    assert result.output.splitlines()[-1].startswith(
        f"NOT ACCEPTED (rejected) EMULATED under root {OWNER.root.name}"
    )


def _bad_tcb(folder: Path) -> None:
    save_collateral(folder / "collateral.json", OWNER.collateral(tcb=every_status("OutOfDate")))


MATRIX = [
    pytest.param("quote", lambda _: None, "quote", (), Outcome.ACCEPTED, id="accepted"),
    pytest.param(
        "quote",
        lambda f: (f / "x").write_bytes(flip(MADE.quote, 568)),
        "x",
        (),
        Outcome.REJECTED,
        id="rejected",
    ),
    pytest.param(
        "quote", lambda _: None, "quote", ("--expect-mrtd", "00" * 48), Outcome.REJECTED, id="unwanted"
    ),
    pytest.param("quote", _bad_tcb, "quote", (), Outcome.REJECTED, id="policy"),
    pytest.param(
        "quote",
        lambda f: (f / "x").write_bytes(b"\x07" + MADE.quote[1:]),
        "x",
        (),
        Outcome.UNSUPPORTED,
        id="unsupported",
    ),
    pytest.param(
        "quote", lambda f: (f / "x").write_bytes(MADE.quote[:99]), "x", (), Outcome.MALFORMED, id="malformed"
    ),
    pytest.param(
        "attestation",
        lambda f: (f / "x").write_bytes(b"{}"),
        "x",
        (),
        Outcome.MALFORMED,
        id="json-without-it",
    ),
    pytest.param(
        "quote",
        lambda f: (f / "collateral.json").write_text("{}"),
        "quote",
        (),
        Outcome.COLLATERAL_MISSING,
        id="collateral-broken",
    ),
    pytest.param(
        "quote",
        lambda f: (f / "collateral.json").unlink(),
        "quote",
        (),
        Outcome.COLLATERAL_MISSING,
        id="collateral-gone",
    ),
    pytest.param("quote", lambda _: None, "nowhere", (), Outcome.MISUSE, id="no-file"),
    pytest.param("quote", lambda _: None, "quote", ("--expect-app-id", "zz"), Outcome.MISUSE, id="no-hex"),
    pytest.param(
        "quote", lambda _: None, "quote", ("--expect-app-id", "00"), Outcome.MISUSE, id="wrong-size"
    ),
    pytest.param("quote", lambda _: None, "quote", ("--at", "noon"), Outcome.MISUSE, id="no-instant"),
    pytest.param("quote", lambda _: None, "quote", ("--at", "9" * 30), Outcome.MISUSE, id="no-such-instant"),
    pytest.param("quote", lambda _: None, "quote", ("--root", "emulated"), Outcome.MISUSE, id="no-root"),
    pytest.param(
        "quote", lambda _: None, "quote", ("--pccs", "http://127.0.0.1:1"), Outcome.MISUSE, id="two-sources"
    ),
    pytest.param(
        "quote", lambda _: None, "quote", ("--accept-status", "Fine"), Outcome.MISUSE, id="no-status"
    ),
    pytest.param("quote", lambda _: None, "quote", ("--unknown",), Outcome.MISUSE, id="no-option"),
]


@pytest.mark.parametrize(("kind", "prepare", "file", "more", "outcome"), MATRIX)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_exit_codes_by_outcome(
    *,
    folder: Path,
    kind: str,
    prepare: Any,
    file: str,
    more: tuple[str, ...],
    outcome: Outcome,
    as_json: bool,
) -> None:
    prepare(folder)
    result = emulated(folder, kind, file, *more, *(["--json"] if as_json else []))
    assert result.exit_code == OUTCOME_TABLE[outcome].exit_code, result.output
    assert "Traceback" not in result.output
    if as_json and "--unknown" not in more:
        assert json.loads(result.output)["outcome"] == outcome.value


def test_the_matrix_has_every_outcome() -> None:
    assert {parameters.values[-1] for parameters in MATRIX} == set(Outcome)


def test_without_a_source_both_ways_out_are_named(folder: Path) -> None:
    result = run("quote", folder / "quote", "--root", f"emulated:{folder / 'root.pem'}")
    assert result.exit_code == 40
    assert "--collateral FILE" in result.output
    assert "--pccs URL" in result.output


def test_a_service_that_is_not_there_is_collateral_missing(folder: Path) -> None:
    root = f"emulated:{folder / 'root.pem'}"
    result = run("quote", folder / "quote", "--root", root, "--pccs", "http://127.0.0.1:1")
    assert result.exit_code == 40
    assert "✗ V3  pccs.transport" in result.output


def test_a_chain_that_is_not_there_is_collateral_missing(folder: Path) -> None:
    result = emulated(
        folder, "attestation", "attestation", "--rpc-url", "http://127.0.0.1:9", "--chain-id", 31337
    )
    assert result.exit_code == 40
    (line,) = [line for line in result.output.splitlines() if " G1 " in line]
    assert line.startswith("✗ G1  chain.")
    assert "http://127.0.0.1:9" in line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--chain-id", 1), "--chain-id: expected --rpc-url beside it, found none"),
        (("--kms-contract", "0x" + "11" * 20), "--kms-contract: expected --rpc-url beside it, found none"),
        (("--expect-owner", "0x" + "11" * 20), "--expect-owner: expected --rpc-url beside it, found none"),
        (
            ("--rpc-url", "http://127.0.0.1:9", "--expect-owner", "11"),
            "owner: expected 20 bytes, found 1",
        ),
        (("--rpc-url", "file:///key"), "the address of a chain's RPC endpoint: expected http"),
    ],
)
def test_chain_options_that_make_no_sense(folder: Path, options: tuple[object, ...], told: str) -> None:
    result = emulated(folder, "attestation", "attestation", *options)
    assert result.exit_code == 2
    assert told in result.stderr


def test_emulated_evidence_is_refused_under_the_default_root(folder: Path) -> None:
    result = run("quote", folder / "quote", "--collateral", folder / "collateral.json", "--at", AT)
    assert result.exit_code == 10
    assert f"ends in {OWNER.root.name}" in result.output
    assert EMULATED_NOTICE not in result.output
    assert result.output.splitlines()[-1].startswith("NOT ACCEPTED (rejected) under root intel")


def test_a_quote_from_standard_input_with_its_log(folder: Path) -> None:
    stdin = MADE.quote.hex().encode()
    more = ("--event-log", folder / "log.json", "--expect-compose-hash", "0x" + COMPOSE_HASH.hex())
    result = emulated(folder, "quote", "-", *more, stdin=stdin)
    assert result.exit_code == 0, result.output
    assert "OS image not shown" in result.output


def test_a_certificate(folder: Path) -> None:
    made = ra_tls_certificate(OWNER, app_id=APP_ID)
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    result = emulated(folder, "certificate", "cert.pem")
    assert result.exit_code == 0, result.output
    assert "✓ C1  certificate.binding" in result.output


def test_an_out_of_date_platform_can_be_accepted_by_name(folder: Path) -> None:
    _bad_tcb(folder)
    assert emulated(folder, "quote", "quote").exit_code == 10
    accepted = ("--accept-status", "OutOfDate", "--grace-days")
    assert emulated(folder, "quote", "quote", *accepted, 365).exit_code == 0
    assert emulated(folder, "quote", "quote", *accepted, 300).exit_code == 10
    unsafe = emulated(folder, "quote", "quote", "--unsafe-any-status")
    assert unsafe.exit_code == 0
    assert "UNSAFE" in unsafe.output


def test_an_instant_may_be_in_seconds_or_without_a_zone(folder: Path) -> None:
    for at in (str(int(NOW.timestamp())), "2026-11-20T12:00:00"):
        assert emulated(folder, "quote", "quote", "--at", at).exit_code == 0


def test_foreign_text_cannot_speak_to_the_terminal(folder: Path) -> None:
    (folder / "x").write_text('{"quote": "\\u001b[2J"}')
    (folder / "log").write_text(
        json.dumps(
            [
                {
                    "imr": 3,
                    "event_type": 134217729,
                    "digest": "00" * 48,
                    "event": "\x1b[2J",
                    "event_payload": "",
                }
            ]
        )
    )
    for result in (
        emulated(folder, "quote", "x"),
        emulated(folder, "quote", "quote", "--event-log", folder / "log"),
    ):
        assert result.exit_code in (10, 30)
        assert "\x1b" not in result.output


def test_the_published_quote_is_accepted_at_its_time(tmp_path: Path) -> None:
    (tmp_path / "quote").write_bytes(sample("tdx_quote"))
    (tmp_path / "collateral").write_bytes(sample("tdx_quote_collateral.json"))
    result = run(
        "quote", tmp_path / "quote", "--collateral", tmp_path / "collateral", "--at", "2025-06-19T11:32:00Z"
    )
    assert result.exit_code == 0
    assert "EMULATED" not in result.output
    assert result.output.splitlines()[-1] == (
        "ACCEPTED under root intel, TCB UpToDate, as of 2025-06-19T11:32:00+00:00"
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["quote", "attestation", "certificate"]), st.binary(max_size=400))
def test_any_input_has_an_answer(kind: str, data: bytes) -> None:
    result = run(kind, "-", stdin=data)
    assert result.exit_code in (10, 20, 30, 40)
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from teehouse.cli.verify import verify_app; from typer.testing import CliRunner; "
        "CliRunner().invoke(verify_app, ['--help']); "
        "print([m for m in ('dcap_qvl', 'cryptography', 'httpx', 'teehouse.attestation.verify') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
