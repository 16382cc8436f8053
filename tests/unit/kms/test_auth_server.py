"""The authorisation service over HTTP (onchain.md 5.1, 5.2)."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.auth_support import APP_ID, BOOT_INFO, COMPOSE, DEVICE, IMAGE, INSTANCE, MR, SYSTEM
from teehouse.base.findings import EvidenceError, unavailable
from teehouse.kms.auth import AuthApi, AuthInfo, Decision
from teehouse.kms.auth_server import auth_app
from teehouse.kms.auth_wire import (
    REQUEST_LIMIT,
    decode_decision,
    decode_info,
    decode_request,
    encode_decision,
    encode_info,
)
from teehouse.kms.boot_info import BootInfo

INVALID = {"isAllowed": False, "reason": "invalid authorization request", "gatewayAppId": ""}
UNAVAILABLE = {"isAllowed": False, "reason": "authorization backend unavailable", "gatewayAppId": ""}
# The form of onchain.md 5.2.
REQUEST: dict[str, Any] = {
    "teeVariant": "dstack-tdx",
    "mrAggregated": MR.hex(),
    "osImageHash": IMAGE.hex(),
    "mrSystem": SYSTEM.hex(),
    "appId": APP_ID.hex(),
    "composeHash": COMPOSE.hex(),
    "instanceId": INSTANCE.hex(),
    "deviceId": DEVICE.hex(),
    "keyProviderInfo": "",
    "tcbStatus": "UpToDate",
    "advisoryIds": [],
}
ASKED = replace(BOOT_INFO, tee_variant="")  # what the service makes of REQUEST


class Backend:
    """Answers what it is told and keeps what it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, BootInfo]] = []
        self.error = error

    async def info(self) -> AuthInfo:
        if self.error:
            raise self.error
        return AuthInfo("0x01", "gateway", 31337, "0x02", "0x03", "http://localhost")

    async def boot_app(self, boot_info: BootInfo) -> Decision:
        return self._answer("app", boot_info)

    async def boot_kms(self, boot_info: BootInfo) -> Decision:
        return self._answer("kms", boot_info)

    def _answer(self, subject: str, boot_info: BootInfo) -> Decision:
        if self.error:
            raise self.error
        self.asked.append((subject, boot_info))
        return Decision(is_allowed=subject == "app", reason=f"as {subject}", gateway_app_id="g")


def browser(api: AuthApi) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(auth_app(api)), base_url="http://auth")


async def post(api: AuthApi, body: bytes | dict[str, Any], path: str = "/bootAuth/app") -> tuple[int, Any]:
    async with browser(api) as client:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await client.post(path, content=content)
        return response.status_code, response.json()


async def test_a_question_reaches_the_backend_and_its_answer_comes_back() -> None:
    backend = Backend()
    assert await post(backend, REQUEST) == (
        200,
        {"isAllowed": True, "reason": "as app", "gatewayAppId": "g"},
    )
    assert await post(backend, REQUEST, "/bootAuth/kms") == (
        200,
        {"isAllowed": False, "reason": "as kms", "gatewayAppId": "g"},
    )
    assert backend.asked == [("app", ASKED), ("kms", ASKED)]


async def test_what_a_kms_sends_is_what_the_service_reads() -> None:
    backend = Backend()
    await post(backend, BOOT_INFO.as_dict())
    assert backend.asked == [("app", ASKED)]


async def test_what_may_be_left_out_and_how_hex_is_read() -> None:
    backend = Backend()
    sparse = {
        "mrAggregated": "0x1",
        "osImageHash": "ABCD",
        "appId": "0xff",
        "composeHash": "0x",
        "instanceId": "",
        "deviceId": "00" * 32,
        "unknown": {"a": 1},
    }
    assert (await post(backend, sparse))[0] == 200
    assert backend.asked == [
        (
            "app",
            BootInfo(
                tee_variant="",
                mr_aggregated=(1).to_bytes(32, "big"),
                os_image_hash=b"\xab\xcd".rjust(32, b"\0"),
                mr_system=bytes(32),
                app_id=b"\xff".rjust(20, b"\0"),
                compose_hash=bytes(32),
                instance_id=bytes(20),
                device_id=bytes(32),
                key_provider_info=b"",
                tcb_status="",
            ),
        )
    ]


async def test_the_bounds_are_within() -> None:
    advisories = ["x" * 256] * 128
    backend = Backend()
    status, _ = await post(backend, {**REQUEST, "tcbStatus": "s" * 128, "advisoryIds": advisories})
    assert status == 200
    assert backend.asked == [("app", replace(ASKED, tcb_status="s" * 128, advisory_ids=tuple(advisories)))]


@pytest.mark.parametrize("path", ["/bootAuth/app", "/bootAuth/kms"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"appId":"","appId":""}',
        b" " * (REQUEST_LIMIT + 1),
        *(
            {k: v for k, v in REQUEST.items() if k != missing}
            for missing in ("mrAggregated", "osImageHash", "appId", "composeHash", "instanceId", "deviceId")
        ),
        {**REQUEST, "appId": "00" * 21},
        {**REQUEST, "instanceId": "00" * 21},
        {**REQUEST, "deviceId": "0x" + "00" * 33},
        {**REQUEST, "deviceId": "0x0x"},
        {**REQUEST, "deviceId": " 00"},
        {**REQUEST, "deviceId": "00\n"},
        {**REQUEST, "deviceId": "zz"},
        {**REQUEST, "deviceId": None},
        {**REQUEST, "deviceId": 1},
        {**REQUEST, "mrSystem": None},
        {**REQUEST, "tcbStatus": "s" * 129},
        {**REQUEST, "tcbStatus": 1},
        {**REQUEST, "advisoryIds": "INTEL"},
        {**REQUEST, "advisoryIds": [1]},
        {**REQUEST, "advisoryIds": ["x" * 257]},
        {**REQUEST, "advisoryIds": ["x"] * 129},
    ],
)
async def test_rule_1_what_is_malformed_is_400(body: bytes | dict[str, Any], path: str) -> None:
    backend = Backend()
    assert await post(backend, body, path) == (400, INVALID)
    assert backend.asked == []


@pytest.mark.parametrize("error", [unavailable("chain", "no chain"), RuntimeError("unforeseen, secret")])
async def test_rules_2_and_3_a_backend_that_fails(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    backend = Backend(error)
    assert await post(backend, REQUEST) == (200, UNAVAILABLE)
    assert await post(backend, REQUEST, "/bootAuth/kms") == (200, UNAVAILABLE)
    async with browser(backend) as client:
        response = await client.get("/")
    assert (response.status_code, response.json()) == (
        500,
        {"status": "error", "message": "authorization backend unavailable"},
    )
    assert "secret" not in caplog.text
    assert "back-end failed" in caplog.text


async def test_about_itself() -> None:
    async with browser(Backend()) as client:
        response = await client.get("/")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "status": "ok",
        "kmsContractAddr": "0x01",
        "ethRpcUrl": "http://localhost",
        "gatewayAppId": "gateway",
        "chainId": 31337,
        "appAuthImplementation": "0x03",
        "appImplementation": "0x02",
    }


async def test_there_are_three_routes() -> None:
    async with browser(Backend()) as client:
        assert (await client.get("/bootAuth/app")).status_code == 405
        assert (await client.post("/")).status_code == 405
        assert (await client.post("/bootAuth/other")).status_code == 404


async def test_a_body_in_pieces_is_kept_up_to_its_bound() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 100_000

    async with browser(Backend()) as client:
        assert (await client.post("/bootAuth/app", content=pieces())).status_code == 400


def test_unknown_members_are_left_out_of_info() -> None:
    assert json.loads(encode_info(AuthInfo("0x01", "", 0, "0x02"))) == {
        "status": "ok",
        "kmsContractAddr": "0x01",
        "gatewayAppId": "",
        "chainId": 0,
        "appImplementation": "0x02",
    }


decisions = st.builds(
    Decision,
    is_allowed=st.booleans(),
    reason=st.text(st.characters(exclude_categories=["Cs"]), max_size=99),
    gateway_app_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=99),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
infos = st.builds(
    AuthInfo,
    texts,
    texts,
    st.integers(0, 2**64 - 1),
    texts,
    st.none() | texts,
    st.none() | texts,
)


@given(decisions)
def test_decisions_come_back(decision: Decision) -> None:
    assert decode_decision(encode_decision(decision)) == decision


@given(infos)
def test_infos_come_back(info: AuthInfo) -> None:
    assert decode_info(encode_info(info)) == info


@given(
    st.builds(
        BootInfo,
        st.just(""),
        *[st.binary(min_size=32, max_size=32)] * 3,
        st.binary(min_size=20, max_size=20),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=20, max_size=20),
        st.binary(min_size=32, max_size=32),
        st.just(b""),
        texts,
        st.lists(texts, max_size=4).map(tuple),
    )
)
def test_questions_come_back(asked: BootInfo) -> None:
    assert decode_request(json.dumps(asked.as_dict()).encode()) == asked


@given(st.binary(max_size=300))
def test_any_bytes_raise_evidence_errors_only(data: bytes) -> None:
    for decode in (decode_request, decode_decision, decode_info):
        with pytest.raises(EvidenceError):
            decode(data)
