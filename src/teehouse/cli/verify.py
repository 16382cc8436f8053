"""`teehouse verify`: evidence in, a verdict with one reason per check out.

Exit codes are those of `base.findings.OUTCOME_TABLE`: 0 accepted, 10 rejected, 20 unsupported, 30 malformed,
40 collateral missing, 2 used wrongly.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from teehouse.attestation.verify import Verdict
    from teehouse.base.findings import Finding, MisuseError
    from teehouse.chain.calls import BootInfo
    from teehouse.client.verification import ChainChecks, Kind, Verification

verify_app = typer.Typer(
    name="verify",
    help="Check that evidence is genuine, good enough, and of the app that you want.",
    no_args_is_help=True,
    add_completion=False,
)
app = verify_app

INPUT_LIMIT = 32 * 1024 * 1024  # bytes
ADDRESS_SIZE = 20  # bytes
_PASSED, _FAILED, _OPEN = "✓", "✗", "?"
_HEX_EXPECTATIONS = (
    "app_id",
    "compose_hash",
    "os_image_hash",
    "device_id",
    "instance_id",
    "report_data",
    "mrtd",
)

File = Annotated[
    str, typer.Argument(metavar="FILE", help="The evidence; - reads standard input.", show_default=False)
]
EventLog = Annotated[
    Path | None, typer.Option("--event-log", help="Event log (JSON) that belongs to a bare quote.")
]
Root = Annotated[str, typer.Option("--root", metavar="intel|emulated:FILE", help="The root that you trust.")]
CollateralFile = Annotated[Path | None, typer.Option("--collateral", help="Collateral as a JSON file.")]
Pccs = Annotated[str | None, typer.Option("--pccs", metavar="URL", help="Service to fetch collateral from.")]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="Judge as of this instant: ISO 8601, or seconds since 1970."),
]
AppId = Annotated[str | None, typer.Option("--expect-app-id", metavar="HEX")]
ComposeHash = Annotated[str | None, typer.Option("--expect-compose-hash", metavar="HEX")]
Image = Annotated[str | None, typer.Option("--expect-image", metavar="HEX", help="OS image hash.")]
Device = Annotated[str | None, typer.Option("--expect-device", metavar="HEX", help="Device id.")]
Instance = Annotated[str | None, typer.Option("--expect-instance", metavar="HEX", help="Instance id.")]
ReportData = Annotated[str | None, typer.Option("--expect-report-data", metavar="HEX", help="64 bytes.")]
Mrtd = Annotated[str | None, typer.Option("--expect-mrtd", metavar="HEX")]
AcceptStatus = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-status", metavar="STATUS", help="TCB status to accept beside UpToDate; may be repeated."
    ),
]
Grace = Annotated[
    int,
    typer.Option("--grace-days", min=0, help="How old an accepted out-of-date TCB level may be, in days."),
]
AnyStatus = Annotated[
    bool, typer.Option("--unsafe-any-status", help="UNSAFE: accept whatever the TCB status is, but Revoked.")
]
Rpc = Annotated[
    list[str] | None,
    typer.Option(
        "--rpc-url",
        metavar="URL",
        help="Ask this chain about the app: contract, owner, allow-lists. Repeated, most endpoints must agree.",
    ),
]
ChainId = Annotated[
    int | None, typer.Option("--chain-id", min=1, help="The chain that is meant; else what --rpc-url tells.")
]
KmsContract = Annotated[
    str | None, typer.Option("--kms-contract", metavar="ADDRESS", help="Ask this KMS contract as well.")
]
Owner = Annotated[
    str | None, typer.Option("--expect-owner", metavar="ADDRESS", help="Owner of the app's contract.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@verify_app.command()
def quote(
    file: File,
    event_log: EventLog = None,
    root: Root = "intel",
    collateral: CollateralFile = None,
    pccs: Pccs = None,
    at: At = None,
    app_id: AppId = None,
    compose_hash: ComposeHash = None,
    os_image_hash: Image = None,
    device_id: Device = None,
    instance_id: Instance = None,
    report_data: ReportData = None,
    mrtd: Mrtd = None,
    accept_status: AcceptStatus = None,
    grace_days: Grace = 0,
    unsafe_any_status: AnyStatus = False,
    rpc_url: Rpc = None,
    chain_id: ChainId = None,
    kms_contract: KmsContract = None,
    owner: Owner = None,
    as_json: AsJson = False,
) -> None:
    """Verify a quote: binary, hex, or the JSON that GetQuote answers."""
    _run("quote", **locals())


@verify_app.command()
def attestation(
    file: File,
    root: Root = "intel",
    collateral: CollateralFile = None,
    pccs: Pccs = None,
    at: At = None,
    app_id: AppId = None,
    compose_hash: ComposeHash = None,
    os_image_hash: Image = None,
    device_id: Device = None,
    instance_id: Instance = None,
    report_data: ReportData = None,
    mrtd: Mrtd = None,
    accept_status: AcceptStatus = None,
    grace_days: Grace = 0,
    unsafe_any_status: AnyStatus = False,
    rpc_url: Rpc = None,
    chain_id: ChainId = None,
    kms_contract: KmsContract = None,
    owner: Owner = None,
    as_json: AsJson = False,
) -> None:
    """Verify an attestation: binary, hex, or JSON."""
    _run("attestation", event_log=None, **locals())


@verify_app.command()
def certificate(
    file: File,
    root: Root = "intel",
    collateral: CollateralFile = None,
    pccs: Pccs = None,
    at: At = None,
    app_id: AppId = None,
    compose_hash: ComposeHash = None,
    os_image_hash: Image = None,
    device_id: Device = None,
    instance_id: Instance = None,
    report_data: ReportData = None,
    mrtd: Mrtd = None,
    accept_status: AcceptStatus = None,
    grace_days: Grace = 0,
    unsafe_any_status: AnyStatus = False,
    rpc_url: Rpc = None,
    chain_id: ChainId = None,
    kms_contract: KmsContract = None,
    owner: Owner = None,
    as_json: AsJson = False,
) -> None:
    """Verify an RA-TLS certificate: PEM, DER or hex."""
    _run("certificate", event_log=None, **locals())


def _run(kind: "Kind", **options: Any) -> None:
    """Judge, print, and leave with the outcome's exit code."""
    from teehouse.base.findings import OUTCOME_TABLE, MisuseError

    try:
        answer = _judge(kind, options)
    except MisuseError as error:
        _misused(error, options["as_json"])
    if options["as_json"]:
        _print(json.dumps(answer.report(), indent=2))
    else:
        for line in _lines(answer):
            _print(line)
    raise typer.Exit(OUTCOME_TABLE[answer.outcome].exit_code)


def _print(text: str) -> None:
    """Findings quote foreign text: what a terminal would act upon, or cannot show, is made visible."""
    shown = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    typer.echo(shown.encode(encoding, errors="backslashreplace").decode(encoding))


def _misused(error: "MisuseError", as_json: bool) -> NoReturn:
    from teehouse.base.findings import OUTCOME_TABLE, Outcome

    if as_json:
        _print(
            json.dumps(
                {"outcome": Outcome.MISUSE.value, "accepted": False, "error": error.finding.as_dict()},
                indent=2,
            )
        )
    else:
        typer.echo(f"misuse: {error}", err=True)
    raise typer.Exit(OUTCOME_TABLE[Outcome.MISUSE].exit_code)


def _judge(kind: "Kind", options: dict[str, Any]) -> "Verification":
    from teehouse.attestation.policy import Policy
    from teehouse.attestation.tcbinfo import UP_TO_DATE
    from teehouse.attestation.validate import Expectations
    from teehouse.base.findings import misuse
    from teehouse.client import verification

    if options["collateral"] is not None and options["pccs"] is not None:
        raise misuse("cli.collateral", "--collateral and --pccs", expected="one of them", found="both")
    source = None
    if options["collateral"] is not None:
        source = verification.collateral_from_file(options["collateral"])
    elif options["pccs"] is not None:
        source = verification.collateral_from_pccs(options["pccs"])
    policy = Policy.unsafe_any_status()
    if not options["unsafe_any_status"]:
        policy = Policy(
            accepted_statuses=frozenset({UP_TO_DATE, *(options["accept_status"] or ())}),
            grace=timedelta(days=options["grace_days"]),
        )
    expected: dict[str, Any] = {
        name: _hex(name, options[name]) for name in _HEX_EXPECTATIONS if options[name] is not None
    }
    log = options["event_log"]
    return verification.check_now(
        verification.Request(
            kind=kind,
            data=_read(options["file"]),
            root=verification.read_root(options["root"]),
            now=_instant(options["at"]),
            collateral=source,
            event_log=None if log is None else _read(str(log)),
            policy=policy,
            expectations=Expectations(**expected),
            chain=_chain(options),
        )
    )


def _chain(options: dict[str, Any]) -> "ChainChecks | None":
    """What asks the chain about a verdict's app, or None where no endpoint is named."""
    from teehouse.base.findings import CollateralError, misuse

    urls: list[str] = options["rpc_url"] or []
    names = {"chain_id": "--chain-id", "kms_contract": "--kms-contract", "owner": "--expect-owner"}
    if not urls:
        for name, option in names.items():
            if options[name] is not None:
                raise misuse("cli.chain", option, expected="--rpc-url beside it", found="none")
        return None
    from teehouse.chain.checks import OnChain, check_app
    from teehouse.cli.chain_options import ChainOptions

    expected = OnChain(_address("kms_contract", options), _address("owner", options))
    quorum = len(urls) // 2 + 1 if len(urls) > 1 else 1
    chain = ChainOptions(tuple(urls), options["chain_id"], quorum=quorum)

    async def ask(verdict: "Verdict") -> "tuple[Finding, ...]":
        try:
            async with await chain.open() as reader:
                return await check_app(reader, boot_info(verdict), expected)
        except CollateralError as error:
            return (replace(error.finding, check="G1"),)

    return ask


def boot_info(verdict: "Verdict") -> "BootInfo":
    """What a KMS's contract is asked about the app of a verdict that names one."""
    from teehouse.chain.calls import BootInfo

    info = verdict.app_info
    assert info is not None  # noqa: S101 - the chain is asked about verdicts that name an app only
    return BootInfo(
        app_id=info.app_id,
        compose_hash=info.compose_hash,
        instance_id=info.instance_id or bytes(len(info.app_id)),
        device_id=info.device_id,
        mr_aggregated=info.mr_aggregated,
        mr_system=info.mr_system,
        os_image_hash=info.os_image_hash,
        tcb_status=verdict.tcb_status or "",
        advisory_ids=tuple(verdict.advisory_ids),
    )


def _address(name: str, options: dict[str, Any]) -> bytes | None:
    from teehouse.base.findings import misuse

    if options[name] is None:
        return None
    address = _hex(name, options[name])
    if len(address) != ADDRESS_SIZE:
        raise misuse("cli.address", name.replace("_", " "), expected="20 bytes", found=str(len(address)))
    return address


def _hex(name: str, text: str) -> bytes:
    from teehouse.base.findings import misuse

    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise misuse(
            "cli.hex", f"the expected {name.replace('_', ' ')}", expected="hex", found=text[:200]
        ) from None


def _read(file: str) -> bytes:
    """The file's content, no more than one byte above the limit: the reader refuses that."""
    from teehouse.base.findings import misuse

    try:
        if file == "-":
            return sys.stdin.buffer.read(INPUT_LIMIT + 1)
        with Path(file).open("rb") as opened:
            return opened.read(INPUT_LIMIT + 1)
    except (OSError, ValueError) as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise misuse("cli.file", f"file {file}", found=found) from None


def _instant(text: str | None) -> datetime:
    from teehouse.base.findings import misuse

    if text is None:
        return datetime.now(UTC)
    try:
        at = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise misuse("cli.at", "--at", expected="ISO 8601, or seconds since 1970", found=text[:100]) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _lines(answer: "Verification") -> Iterable[str]:
    from teehouse.attestation.report import EMULATED_NOTICE
    from teehouse.base.findings import Outcome

    verdict = answer.verdict
    if verdict.emulated:
        yield EMULATED_NOTICE
    for finding in verdict.findings:
        yield _line(finding)
    if verdict.not_judged:
        yield f"{_OPEN} not judged, because of what failed: {', '.join(verdict.not_judged)}"
    for finding in (*answer.certificate, *answer.policy, *answer.expectations, *answer.chain):
        yield _line(finding)
    info = verdict.app_info
    if info is not None:
        yield f"  app id {info.app_id.hex()}, compose hash {info.compose_hash.hex()}"
        image = info.os_image_hash.hex() if verdict.image_verified else "not shown"
        yield f"  OS image {image}, device id {info.device_id.hex()}"
    accepted = answer.outcome is Outcome.ACCEPTED
    word = "ACCEPTED" if accepted else f"NOT ACCEPTED ({answer.outcome.value})"
    status = f", TCB {verdict.tcb_status}" if verdict.tcb_status else ""
    mark = " EMULATED" if verdict.emulated else ""
    yield f"{word}{mark} under root {verdict.root}{status}, as of {verdict.at.astimezone(UTC).isoformat()}"


def _line(finding: "Finding") -> str:
    return f"{_PASSED if finding.ok else _FAILED} {finding.check:<3} {finding.code}: {finding.sentence()}"
