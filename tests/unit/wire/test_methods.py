"""Path resolution (guest-agent.md 1.3, 1.5) and the method tables (4 to 7)."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty
from hypothesis import given
from hypothesis import strategies as st

from teehouse.wire import guest_pb2
from teehouse.wire.methods import METHODS, Method, Unknown, resolve

DSTACK, TAPPD, WORKER = METHODS["DstackGuest"], METHODS["Tappd"], METHODS["Worker"]


def test_the_tables_hold_every_method_with_its_messages() -> None:
    signatures = {
        service: {
            name: (m.request.DESCRIPTOR.name, m.response.DESCRIPTOR.name) for name, m in methods.items()
        }
        for service, methods in METHODS.items()
    }
    assert signatures == {
        "DstackGuest": {
            "GetTlsKey": ("GetTlsKeyArgs", "GetTlsKeyResponse"),
            "GetKey": ("GetKeyArgs", "GetKeyResponse"),
            "GetQuote": ("RawQuoteArgs", "GetQuoteResponse"),
            "Info": ("Empty", "AppInfo"),
            "EmitEvent": ("EmitEventArgs", "Empty"),
            "Sign": ("SignRequest", "SignResponse"),
            "Verify": ("VerifyRequest", "VerifyResponse"),
            "Attest": ("RawQuoteArgs", "AttestResponse"),
            "Version": ("Empty", "WorkerVersion"),
            "GpuInfo": ("Empty", "GpuInfoResponse"),
        },
        "Tappd": {
            "DeriveKey": ("DeriveKeyArgs", "GetTlsKeyResponse"),
            "DeriveK256Key": ("GetKeyArgs", "DeriveK256KeyResponse"),
            "TdxQuote": ("TdxQuoteArgs", "TdxQuoteResponse"),
            "RawQuote": ("RawQuoteArgs", "TdxQuoteResponse"),
            "Info": ("Empty", "AppInfo"),
            "Version": ("Empty", "WorkerVersion"),
        },
        "Worker": {
            "Info": ("Empty", "AppInfo"),
            "Version": ("Empty", "WorkerVersion"),
            "GetAttestationForAppKey": ("GetAttestationForAppKeyRequest", "GetQuoteResponse"),
        },
        "GuestApi": {
            "Info": ("Empty", "GuestInfo"),
            "SysInfo": ("Empty", "SystemInfo"),
            "NetworkInfo": ("Empty", "NetworkInformation"),
            "ListContainers": ("Empty", "ListContainersResponse"),
            "Shutdown": ("Empty", "Empty"),
        },
    }
    assert DSTACK["GetKey"] == Method("GetKey", "DstackGuest", guest_pb2.GetKeyArgs, guest_pb2.GetKeyResponse)
    assert DSTACK["EmitEvent"].response is Empty


@pytest.mark.parametrize("prefix", ["/", "/v0/", "/prpc/", "/prpc/v0/"])
@pytest.mark.parametrize("service", ["", "DstackGuest.", "Tappd."])
@pytest.mark.parametrize("listener", ["internal", "all"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_inner_listeners_accept_every_published_form(
    listener: str, service: str, prefix: str, slash: str
) -> None:
    own = TAPPD if service == "Tappd." else DSTACK
    for name, expected in (
        ("GetKey", DSTACK["GetKey"]),
        ("DeriveKey", TAPPD["DeriveKey"]),
        ("Info", own["Info"]),
        ("Version", own["Version"]),
    ):
        assert resolve(listener, prefix + service + name + slash) == expected  # type: ignore[arg-type]  # from a parameter list


@pytest.mark.parametrize("prefix", ["/prpc/", "/prpc/v0/"])
@pytest.mark.parametrize("service", ["", "Worker."])
def test_the_external_listener_serves_worker_alone(prefix: str, service: str) -> None:
    for name, method in WORKER.items():
        assert resolve("external", prefix + service + name) == method
    assert resolve("external", f"{prefix}{service}GetKey") == Unknown("Service not found: GetKey")


@pytest.mark.parametrize(
    ("listener", "path", "text"),
    [
        ("internal", "/Nope", "Service not found: Nope"),
        ("internal", "/prpc/Tappd.Nope", "Service not found: Nope"),
        ("internal", "/Worker.Info", "Service not found: Worker.Info"),
        ("internal", "/GetAttestationForAppKey", "Service not found: GetAttestationForAppKey"),
        ("internal", "/GetKey/x", "Service not found: GetKey/x"),
        ("internal", "/GetKey//", "Service not found: GetKey/"),
        ("internal", "/getkey", "Service not found: getkey"),
        ("internal", "/", "Service not found: "),
        ("internal", "", "Service not found: "),
        ("internal", "/v1/GetKey", "Service not found: v1/GetKey"),
        ("external", "/GetKey", "Service not found: GetKey"),
        ("external", "/Info", "Service not found: Info"),
        ("external", "/prpc/DstackGuest.GetKey", "Service not found: DstackGuest.GetKey"),
        ("external", "/prpc/Tappd.Info", "Service not found: Tappd.Info"),
        ("guest-api", "/Info", "Service not found: Info"),
        ("guest-api", "/api/GetKey", "Service not found: GetKey"),
    ],
)
def test_unknown_paths_say_what_remains(listener: str, path: str, text: str) -> None:
    assert resolve(listener, path) == Unknown(text)  # type: ignore[arg-type]  # from a parameter list


def test_one_address_for_everything_adds_worker() -> None:
    assert resolve("all", "/prpc/Worker.Info") == WORKER["Info"]
    assert resolve("all", "/prpc/Info") == DSTACK["Info"]
    assert resolve("all", "/GetAttestationForAppKey") == WORKER["GetAttestationForAppKey"]


def test_the_host_side_is_below_api() -> None:
    for name, method in METHODS["GuestApi"].items():
        assert resolve("guest-api", f"/api/{name}") == method
        assert resolve("guest-api", f"/api/GuestApi.{name}") == method


@given(st.text())
def test_any_external_path_ends_at_worker_or_nowhere(path: str) -> None:
    found = resolve("external", path)
    assert isinstance(found, Unknown) or found.service == "Worker"


def test_generated_code_is_what_the_sources_give() -> None:
    pytest.importorskip("grpc_tools", reason="the protobuf compiler is a development tool")
    tree = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "tools.proto", "--check"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
