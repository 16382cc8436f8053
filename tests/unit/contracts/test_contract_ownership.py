"""Ownership of app and KMS, in two steps (contracts/SPEC.md 8)."""

from collections.abc import Callable
from typing import Any

import pytest

from support.evm import NEW_OWNER, OWNER, STRANGER, ZERO, Chain, Event, Reverted, error, events, keccak, word

UPGRADE = "upgradeToAndCall(address,bytes)"


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture(params=["app", "kms"])
def proxy(chain: Chain, request: pytest.FixtureRequest) -> str:
    return chain.app() if request.param == "app" else chain.kms()


def refused(action: Callable[[], Any]) -> bytes:
    with pytest.raises(Reverted) as caught:
        action()
    return caught.value.data


def ownership(chain: Chain, proxy: str) -> tuple[str, str]:
    (owner,), (pending,) = (
        chain.read(proxy, f"{name}()", [], "(address)") for name in ("owner", "pendingOwner")
    )
    return owner, pending


def test_ownership_moves_in_two_steps(chain: Chain, proxy: str) -> None:
    offered = chain.send(proxy, "transferOwnership(address)", [NEW_OWNER])
    assert ownership(chain, proxy) == (OWNER, NEW_OWNER)
    assert events(offered.logs) == [Event(proxy, "OwnershipTransferStarted", (OWNER, NEW_OWNER))]
    assert offered.logs[0].topics[0] == keccak(b"OwnershipTransferStarted(address,address)")
    accepted = chain.send(proxy, "acceptOwnership()", sender=NEW_OWNER)
    assert ownership(chain, proxy) == (NEW_OWNER, ZERO)
    assert events(accepted.logs) == [Event(proxy, "OwnershipTransferred", (OWNER, NEW_OWNER))]
    assert accepted.logs[0].topics == (
        keccak(b"OwnershipTransferred(address,address)"),
        word(OWNER),
        word(NEW_OWNER),
    )
    expected = error("OwnableUnauthorizedAccount(address)", OWNER)
    assert refused(lambda: chain.send(proxy, "transferOwnership(address)", [OWNER])) == expected


def test_only_the_one_it_was_offered_to_accepts(chain: Chain, proxy: str) -> None:
    chain.send(proxy, "transferOwnership(address)", [NEW_OWNER])
    for sender in (STRANGER, OWNER):
        expected = error("OwnableUnauthorizedAccount(address)", sender)
        assert refused(lambda by=sender: chain.send(proxy, "acceptOwnership()", sender=by)) == expected


@pytest.mark.parametrize("instead", [ZERO, STRANGER])
def test_an_offer_is_replaced_or_taken_back(chain: Chain, proxy: str, instead: str) -> None:
    chain.send(proxy, "transferOwnership(address)", [NEW_OWNER])
    chain.send(proxy, "transferOwnership(address)", [instead])
    expected = error("OwnableUnauthorizedAccount(address)", NEW_OWNER)
    assert refused(lambda: chain.send(proxy, "acceptOwnership()", sender=NEW_OWNER)) == expected
    assert ownership(chain, proxy) == (OWNER, instead)


def test_only_the_owner_offers_and_renounces(chain: Chain, proxy: str) -> None:
    expected = error("OwnableUnauthorizedAccount(address)", STRANGER)
    for signature, arguments in (("transferOwnership(address)", [STRANGER]), ("renounceOwnership()", [])):
        assert (
            refused(lambda of=signature, to=arguments: chain.send(proxy, of, to, sender=STRANGER)) == expected
        )


def test_a_renounced_contract_has_no_owner_for_ever(chain: Chain, proxy: str) -> None:
    chain.send(proxy, "transferOwnership(address)", [NEW_OWNER])
    receipt = chain.send(proxy, "renounceOwnership()")
    assert events(receipt.logs) == [Event(proxy, "OwnershipTransferred", (OWNER, ZERO))]
    assert ownership(chain, proxy) == (ZERO, ZERO)
    for sender in (OWNER, NEW_OWNER):
        expected = error("OwnableUnauthorizedAccount(address)", sender)
        for signature, arguments in (
            (UPGRADE, [STRANGER, b""]),
            ("transferOwnership(address)", [sender]),
            ("acceptOwnership()", []),
        ):
            assert (
                refused(lambda of=signature, to=arguments, by=sender: chain.send(proxy, of, to, sender=by))
                == expected
            )
