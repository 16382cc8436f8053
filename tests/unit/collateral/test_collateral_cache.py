"""The cache of collateral and collateral files: freshness, fall-back, bounds (trust.md 12)."""

import asyncio
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from support.adversary import NOW, Adversary
from teehouse.attestation.abi import Quote, parse_quote
from teehouse.attestation.bundle import COLLATERAL_LIMIT, Collateral
from teehouse.base.clock import FixedClock
from teehouse.base.findings import CollateralError, unavailable
from teehouse.collateral.cache import REFRESH_AFTER, RETRY_AFTER, CollateralCache
from teehouse.collateral.files import load_collateral, save_collateral

OWNER = Adversary()
TDX, SGX = parse_quote(OWNER.quote()), parse_quote(OWNER.sgx_quote())
SECOND = timedelta(seconds=1)


class Service:
    """Counts what it is asked; answers with `collateral`, or fails."""

    def __init__(self, collateral: Collateral | None) -> None:
        self.collateral = collateral
        self.asked = 0

    async def __call__(self, _quote: Quote) -> Collateral:
        self.asked += 1
        await asyncio.sleep(0)
        if self.collateral is None:
            raise unavailable("pccs.status", "the answer")
        return self.collateral


def made(service: Service, **options: int) -> tuple[CollateralCache, FixedClock]:
    clock = FixedClock(NOW)
    return CollateralCache(service, clock, **options), clock  # type: ignore[arg-type] # sizes only


async def test_what_was_fetched_is_served_until_it_is_due() -> None:
    service = Service(OWNER.collateral())
    cache, clock = made(service)
    first = await cache.collateral(TDX)
    clock.advance(REFRESH_AFTER - SECOND)
    assert await cache.collateral(TDX) is first
    assert service.asked == 1
    service.collateral = OWNER.collateral(now=NOW + REFRESH_AFTER)
    clock.advance(SECOND)
    assert await cache.collateral(TDX) is service.collateral
    assert service.asked == 2


async def test_a_failing_service_leaves_the_former_as_long_as_it_holds() -> None:
    service = Service(OWNER.collateral())
    cache, clock = made(service)
    first = await cache.collateral(TDX)
    service.collateral = None
    clock.advance(REFRESH_AFTER)
    assert await cache.collateral(TDX) is first
    clock.advance(RETRY_AFTER - SECOND)
    assert await cache.collateral(TDX) is first
    assert service.asked == 2
    clock.advance(SECOND)
    assert await cache.collateral(TDX) is first
    assert service.asked == 3
    clock.advance(first.expires() - clock.now() - SECOND)
    assert await cache.collateral(TDX) is first
    clock.advance(SECOND)
    with pytest.raises(CollateralError):
        await cache.collateral(TDX)


async def test_without_a_former_the_failure_is_the_answer() -> None:
    cache, _ = made(Service(None))
    with pytest.raises(CollateralError):
        await cache.collateral(TDX)


async def test_expired_collateral_is_handed_on_and_not_kept() -> None:
    service = Service(OWNER.collateral(now=NOW - timedelta(days=60)))
    cache, clock = made(service)
    assert await cache.collateral(TDX) is service.collateral
    good = service.collateral = OWNER.collateral()
    assert await cache.collateral(TDX) is good
    service.collateral = OWNER.collateral(now=NOW - timedelta(days=60))
    clock.advance(REFRESH_AFTER)
    assert await cache.collateral(TDX) is good


async def test_unreadable_collateral_does_not_push_out_the_former() -> None:
    service = Service(OWNER.collateral(tcb_info="{"))
    cache, clock = made(service)
    assert await cache.collateral(TDX) is service.collateral
    good = service.collateral = OWNER.collateral()
    assert await cache.collateral(TDX) is good
    service.collateral = OWNER.collateral(pck_crl=b"")
    clock.advance(REFRESH_AFTER)
    assert await cache.collateral(TDX) is good


async def test_each_kind_of_platform_has_its_own_entry_and_their_number_is_bounded() -> None:
    service = Service(OWNER.collateral())
    cache, _ = made(service, size=1)
    await cache.collateral(TDX)
    await cache.collateral(SGX)
    assert (len(cache), service.asked) == (1, 2)
    await cache.collateral(TDX)
    assert (len(cache), service.asked) == (1, 3)


async def test_callers_at_once_wait_for_one_fetch() -> None:
    service = Service(OWNER.collateral())
    cache, _ = made(service)
    answers = await asyncio.gather(*(cache.collateral(TDX) for _ in range(5)))
    assert service.asked == 1
    assert all(answer is service.collateral for answer in answers)


def test_a_file_holds_collateral(tmp_path: Path) -> None:
    path = tmp_path / "collateral.json"
    save_collateral(path, OWNER.collateral())
    assert load_collateral(path) == OWNER.collateral()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "collateral.file"),
        (b"{}", "collateral.member"),
        (b"nothing", "collateral.not-json"),
        (b" " * (COLLATERAL_LIMIT + 2), "collateral.too-long"),
    ],
    ids=["missing", "empty-object", "no-json", "too-long"],
)
def test_a_file_that_holds_none_is_collateral_missing(
    tmp_path: Path, content: bytes | None, code: str
) -> None:
    path = tmp_path / "collateral.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CollateralError) as refused:
        load_collateral(path)
    assert refused.value.finding.code == code
    assert str(path) in refused.value.finding.subject
