"""Derivation (teehouse.keys.derive), by the rule numbers of its docstring."""

import base64

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from support.keys_support import DUMMY, SEED, SIM
from support.keys_vectors import CHAINS, V1_KEYS
from teehouse.base.findings import Family, Finding, MisuseError, Outcome
from teehouse.keys import derive, signing
from teehouse.keys.derive import (
    P256_ORDER,
    KeyDerivationError,
    application_key,
    derive_p256,
    dh_secret,
    hkdf,
    p256_from_scalar,
    p256_scalar,
    v1_key,
)


@given(ikm=st.binary(max_size=80), info=st.binary(max_size=80), length=st.integers(1, 200), salt=st.binary())
def test_rule_1_hkdf_is_that_of_rfc_5869(ikm: bytes, info: bytes, length: int, salt: bytes) -> None:
    # Another implementation of RFC 5869 is the reference.
    assert hkdf(ikm, info, length=length, salt=salt) == HKDF(SHA256(), length, salt, info).derive(ikm)


def test_rule_1_the_longest_output_and_one_byte_more() -> None:
    assert len(hkdf(SIM, b"x", length=8160)) == 8160
    for length in (0, 8161):
        with pytest.raises(ValueError, match="1 to 8160"):
            hkdf(SIM, b"x", length=length)


def test_rule_1_contexts_are_concatenated() -> None:
    assert hkdf(SIM, b"a", b"bc") == hkdf(SIM, b"ab", b"c") == hkdf(SIM, b"abc") != hkdf(SIM, b"ab")


def test_rule_2_published_public_keys_of_dummy() -> None:
    # guest-agent.md 19.1, published
    key = application_key(DUMMY, "vms")
    assert key.hex() == "9db79b3fefe69f2a7b7efbc908c854bf845a629023361f2c9cb3db09fb99010f"
    printed = [
        base64.urlsafe_b64encode(signing.public_key(algorithm, key)).decode().rstrip("=")
        for algorithm in ("ed25519", "secp256k1")
    ]
    assert printed == [
        "5Pbre1Amf1hrp2V2bbfKlIfxpQb2pJAmrgmhxgVoG9s",
        "A6t_JdVkVdMAocH3f1f20WGT6JzdntxcXimUtEax8zc9",
    ]


@pytest.mark.parametrize(("path", "key"), [(row[0], row[3]) for row in CHAINS])
def test_rule_2_keys_of_sim(path: str, key: str) -> None:
    assert application_key(SIM, path).hex() == key


def test_rule_2_paths_are_not_normalised() -> None:
    assert len({application_key(SIM, path) for path in ("a", "/a", "a/", "A", "a ")}) == 5
    assert application_key(SIM, "é") == hkdf(SIM, b"\xc3\xa9")


def test_rule_2_a_path_of_half_a_surrogate_pair_is_misuse() -> None:
    with pytest.raises(MisuseError) as refusal:
        application_key(SIM, "\ud800")
    assert refusal.value.finding == Finding(
        "text.not-unicode", "path is not valid Unicode text", Outcome.MISUSE
    )


@pytest.mark.parametrize("scalar", [0, P256_ORDER, (1 << 256) - 1])
def test_rule_3_a_scalar_outside_p256_is_an_error_and_not_reduced(scalar: int) -> None:
    with pytest.raises(KeyDerivationError) as refusal:
        p256_from_scalar(scalar.to_bytes(32, "big"))
    assert refusal.value.finding == Finding(
        "key.p256-scalar", "Failed to derive key", Outcome.COLLATERAL_MISSING
    )
    assert refusal.value.family is Family.COLLATERAL


@pytest.mark.parametrize("scalar", [1, P256_ORDER - 1])
def test_rule_3_the_smallest_and_largest_scalar_are_keys(scalar: int) -> None:
    raw = scalar.to_bytes(32, "big")
    assert p256_scalar(p256_from_scalar(raw)) == raw


def test_rule_3_the_published_shared_secret() -> None:
    # guest-agent.md 19.1, published: proves the P-256 child and its PKCS#8 DER
    parent = bytes.fromhex("f57527cea4ab7ffb49af99b158cdc0e3ec06398f528349ea236b7d2afe19cec1")
    assert dh_secret(parent, b"context one", b"context two").hex() == (
        "663afd58820be8ad645f9c035e93199d114ab16f738db62393bc1d7d623e8813"
    )


def test_rule_3_keys_of_a_seed_without_kms() -> None:
    # guest-agent.md 19.1, computed; seed 00..1f
    assert p256_scalar(derive_p256(SEED, b"app-key")).hex() == (
        "0a6ae75425993b828ace490021809dcda469d5b531b018a27fdd28cd6d81115e"
    )
    assert dh_secret(SEED, b"app-disk-key").hex() == (
        "16271dff935a2b916181f4c8a0a6666de98224ba51437c329171a11dd481a09a"
    )
    assert hkdf(SEED, b"app-k256-key").hex() == (
        "091c9c36eb873f1aacde93e91631256e1610ce9940166b45f437d635d76ba95e"
    )


@pytest.mark.parametrize(("domain", "algorithm", "key", "public"), V1_KEYS)
def test_rule_4_published_v1_keys(domain: str, algorithm: str, key: str, public: str) -> None:
    secret = v1_key(DUMMY, algorithm, domain)
    assert (secret.hex(), signing.public_key(algorithm, secret).hex()) == (key, public)


def test_rule_4_v1_parts_do_not_run_into_each_other() -> None:
    assert v1_key(DUMMY, "a", "bc") != v1_key(DUMMY, "ab", "c")
    assert derive.v1_claim("a", "bc", b"k") == (
        b"\x00\x00\x00\x19dstack-guest-v1-key-claim\x00\x00\x00\x01a\x00\x00\x00\x02bc\x00\x00\x00\x01k"
    )
