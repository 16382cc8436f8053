"""Chains, Sign and Verify (teehouse.keys.signing), by the rule numbers of its docstring."""

import coincurve
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from support.keys_support import APP_ID, DUMMY, SEED, SIM, simulator_keys
from support.keys_vectors import CHAINS
from teehouse.base.findings import EvidenceError, Family, MisuseError
from teehouse.base.hashes import keccak256, sha256
from teehouse.keys import signing
from teehouse.keys.derive import KeyDerivationError, application_key, v1_key
from teehouse.keys.signing import SECP256K1_ORDER as ORDER
from teehouse.keys.signing import sign, verify

# guest-agent.md 19.2 (SIM)
SIGN_KEY = application_key(SIM, "vms")
MESSAGE = b"Test message for signing"
DEADBEEF = bytes.fromhex("deadbeef")
K256_PUBLIC = bytes.fromhex("036105f01d1fd781568f7c208b087b1c4f522601410ed7e9c7870d573de7c46d54")
ED25519_PUBLIC = bytes.fromhex("698f56bd587d8ce3ca8db0e1c361ba9d190089f98dc4d9df800ff92ed073a65d")
K256_MESSAGE = bytes.fromhex(
    "673932366ab5452967919dbb290a20b095e0a65ef35baa7bd47abcc23e37f0dc"
    "3f42c80fc1680af6ba57c9cb5bcf08f5d89aa4b6f69c819ef28045b0e0134992"
)
ED25519_MESSAGE = bytes.fromhex(
    "5d1b901403e9a4a03b4f854d0895abd7289f68381cd1044212c0e0c779493fc4"
    "886bfd139e3b8e6bf214d38b2ae15a32708f8f18805061a2079cca1c79288f04"
)
K256_DEADBEEF = bytes.fromhex(
    "03a365030a087f52246dad00e2ce9160a18462a880b760be82177d44dde1dac0"
    "32de945b6d6eb35edf602518de3364191f42931b8c282f22a36a167bd24ced3f"
)
K256_DEADBEEF_HIGH_S = bytes.fromhex(
    "03a365030a087f52246dad00e2ce9160a18462a880b760be82177d44dde1dac0"
    "cd216ba492914ca1209fdae721cc9be59b6c49cb232071191c684810fde95402"
)
ED25519_DEADBEEF = bytes.fromhex(
    "6fb88fa2d00510bad307acc1dc4ef0f30df0acd0ad188a19b05064f17652d635"
    "623b5b6f31f1494e35aca3a3efd0234e99db3ef44f2030265db39258158ac201"
)


def subject(refused: pytest.ExceptionInfo[MisuseError]) -> str:
    return refused.value.finding.subject


@pytest.mark.parametrize("row", CHAINS)
def test_rules_1_and_2_chains_of_sim(row: tuple[str, ...]) -> None:
    path, purpose, algorithm, *expected, digest, link = row
    secret = application_key(SIM, path)
    public_key = signing.public_key(algorithm, secret)
    made = (
        secret.hex(),
        public_key.hex(),
        signing.chain_digest(purpose, public_key).hex(),
        signing.key_chain_link(SIM, purpose, public_key).hex(),
    )
    assert made == (*expected, digest, link)
    assert signing.recover_public_key(bytes.fromhex(digest), bytes.fromhex(link)) == signing.public_key(
        "", SIM
    )


def test_rule_2_the_published_link() -> None:
    # guest-agent.md 19.1, published: DUMMY, path "test", purpose "signing"
    key = signing.public_key("secp256k1", application_key(DUMMY, "test"))
    assert key.hex() == "02ead9e0064aad1bb151c270c78ef82a4caf6d3fc92c311804e79751deb3476919"
    assert signing.key_chain_link(DUMMY, "signing", key).hex() == (
        "c8a3dcf06c4e95bd78a5d7a1c8fcff171fc5848cfae804c6fc11bda4dc5d4062"
        "379995390843827444992c4c0e4bac70f0f878e01b9fc8b98cd7126fe5a3876b01"
    )


def test_rule_2_the_published_v1_link() -> None:
    # guest-agent.md 19.8, published
    secret = v1_key(DUMMY, "secp256k1", "storage-encryption")
    link = signing.v1_chain_link(
        DUMMY, "secp256k1", "storage-encryption", signing.public_key("secp256k1", secret)
    )
    assert link.hex() == (
        "5b6193729ce7976ec67863f21692d4b98c69832698aae8e001a7d33a6f818b6e"
        "46ca950725b6e90e8ca9bcf394abd03ce264bf9b7eec1e91693247f9dd53c26901"
    )


def test_rule_2_the_ethereum_address_of_a_key() -> None:
    # guest-agent.md 19.1
    point = coincurve.PrivateKey(application_key(SIM, "eth/test")).public_key.format(compressed=False)
    assert keccak256(point[1:])[12:].hex() == "3f1ff4ebeebdf7af6597b49d16346c0f212d70c8"


def test_rule_2_a_purpose_of_half_a_surrogate_pair_is_misuse() -> None:
    with pytest.raises(MisuseError, match="purpose is not valid Unicode text"):
        signing.key_chain_link(SIM, "\udfff", b"k")


def test_rule_3_the_published_kms_key_made_the_simulators_link() -> None:
    # guest-agent.md 19.1, published: KMS root and app root public keys
    root = signing.public_key("k256", SIM)
    digest = signing.kms_digest(APP_ID, root)
    assert root.hex() == "02818494263695e8839122dbd88e281d7380622999df4e60a14befa0f2d096fc7c"
    assert digest.hex() == "1f1acc59bf7234477601c8abf24b462777d69b8497e91189bb4c4c0568308bf5"
    link = bytes.fromhex(simulator_keys()["k256_signature"])
    assert signing.recover_public_key(digest, link).hex() == (
        "0321529e458424ab1f710a3a57ec4dad2fb195ddca572f7469242ba6c7563085b6"
    )


def test_rule_3_our_kms_link_recovers_to_its_key() -> None:
    root = signing.public_key("", SIM)
    link = signing.kms_link(SEED, APP_ID, root)
    assert len(link) == 65
    assert signing.recover_public_key(signing.kms_digest(APP_ID, root), link) == signing.public_key("", SEED)
    assert signing.recover_public_key(signing.kms_digest(bytes(20), root), link) != signing.public_key(
        "", SEED
    )


@pytest.mark.parametrize(
    ("signature", "code"),
    [
        (b"", "signature.form"),
        (bytes(64), "signature.form"),
        (bytes(66), "signature.form"),
        (K256_DEADBEEF + b"\x02", "signature.form"),
        (K256_DEADBEEF + b"\x1b", "signature.form"),
        (bytes(65), "signature.unrecoverable"),
        (b"\xff" * 64 + b"\0", "signature.unrecoverable"),
    ],
)
def test_rule_1_signatures_that_recover_to_nothing(signature: bytes, code: str) -> None:
    with pytest.raises(EvidenceError) as refusal:
        signing.recover_public_key(bytes(32), signature)
    assert refusal.value.finding.code == code


@given(st.binary(min_size=65, max_size=65), st.binary(min_size=32, max_size=32))
def test_rule_1_recovery_raises_nothing_else(signature: bytes, digest: bytes) -> None:
    try:
        key = signing.recover_public_key(digest, signature[:64] + bytes([signature[64] & 1]))
    except EvidenceError:
        return
    assert len(key) == 33


def test_names_of_algorithms_for_keys() -> None:
    names = ("", "secp256k1", "k256", "ed25519")
    assert [signing.key_algorithm(name) for name in names] == ["secp256k1"] * 3 + ["ed25519"]
    for name in ("secp256k1_prehashed", "SECP256K1", "Ed25519", "p256", " "):
        with pytest.raises(MisuseError) as refusal:
            signing.public_key(name, SIM)
        assert subject(refusal) == "Unsupported algorithm"


def test_rule_4_names_of_algorithms_for_signing() -> None:
    names = ("secp256k1", "k256", "secp256k1_prehashed", "ed25519")
    assert [signing.signing_key_algorithm(name) for name in names] == ["secp256k1"] * 3 + ["ed25519"]
    for name in ("", "K256", "p256"):
        with pytest.raises(MisuseError) as refusal:
            sign(name, SIM, b"")
        assert subject(refusal) == "Unsupported algorithm"
        with pytest.raises(MisuseError) as refusal:
            verify(name, b"", bytes(64), K256_PUBLIC)
        assert subject(refusal) == "Unsupported algorithm"


@pytest.mark.parametrize(
    ("algorithm", "data", "signature", "public"),
    [
        ("secp256k1", MESSAGE, K256_MESSAGE, K256_PUBLIC),
        ("k256", MESSAGE, K256_MESSAGE, K256_PUBLIC),
        ("secp256k1_prehashed", sha256(MESSAGE), K256_MESSAGE, K256_PUBLIC),
        ("ed25519", MESSAGE, ED25519_MESSAGE, ED25519_PUBLIC),
        ("secp256k1", DEADBEEF, K256_DEADBEEF, K256_PUBLIC),
        ("secp256k1_prehashed", sha256(DEADBEEF), K256_DEADBEEF, K256_PUBLIC),
        ("ed25519", DEADBEEF, ED25519_DEADBEEF, ED25519_PUBLIC),
    ],
)
def test_rules_4_and_5_signatures_of_sim(
    algorithm: str, data: bytes, signature: bytes, public: bytes
) -> None:
    assert signing.public_key(signing.signing_key_algorithm(algorithm), SIGN_KEY) == public
    assert sign(algorithm, SIGN_KEY, data) == signature
    assert verify(algorithm, data, signature, public) is True
    assert verify(algorithm, sha256(data), signature, public) is False
    assert verify(algorithm, data, signature[:-1] + bytes([signature[-1] ^ 1]), public) is False


@pytest.mark.parametrize("algorithm", ["secp256k1", "ed25519"])
@given(
    data=st.binary(max_size=100), secret=st.binary(min_size=32, max_size=32).filter(lambda s: 0 < s[0] < 255)
)
def test_rules_4_and_5_what_is_signed_verifies(algorithm: str, data: bytes, secret: bytes) -> None:
    assert verify(algorithm, data, sign(algorithm, secret, data), signing.public_key(algorithm, secret))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_rule_4_a_prehashed_value_has_32_bytes(size: int) -> None:
    with pytest.raises(MisuseError) as refusal:
        sign("secp256k1_prehashed", SIM, bytes(size))
    assert subject(refusal) == (f"Pre-hashed signing requires a 32-byte digest, but received {size} bytes")


@pytest.mark.parametrize("scalar", [0, ORDER, ORDER + 1])
def test_a_secret_outside_secp256k1_is_no_key(scalar: int) -> None:
    secret = scalar.to_bytes(32, "big")
    for attempt in (
        lambda: signing.public_key("k256", secret),
        lambda: sign("k256", secret, b""),
        lambda: signing.key_chain_link(secret, "", b"k"),
    ):
        with pytest.raises(KeyDerivationError) as refusal:
            attempt()
        assert refusal.value.finding.sentence() == "Failed to parse k256 key"
        assert refusal.value.family is Family.COLLATERAL


def test_rule_5_a_high_s_is_false() -> None:
    assert verify("secp256k1", DEADBEEF, K256_DEADBEEF_HIGH_S, K256_PUBLIC) is False


@pytest.mark.parametrize("algorithm", ["secp256k1", "secp256k1_prehashed", "ed25519"])
@pytest.mark.parametrize("size", [0, 63, 65])
def test_rule_5_a_signature_has_64_bytes(algorithm: str, size: int) -> None:
    public = ED25519_PUBLIC if algorithm == "ed25519" else K256_PUBLIC
    with pytest.raises(MisuseError) as refusal:
        verify(algorithm, bytes(32), bytes(size), public)
    assert refusal.value.finding.sentence() == f"signature error: expected 64 bytes, found {size}"


@pytest.mark.parametrize(("r", "s"), [(0, 1), (1, 0), (ORDER, 1), (1, ORDER), (2**256 - 1, 1)])
def test_rule_5_r_and_s_lie_within_the_order(r: int, s: int) -> None:
    with pytest.raises(MisuseError) as refusal:
        verify("k256", b"", r.to_bytes(32, "big") + s.to_bytes(32, "big"), K256_PUBLIC)
    assert (refusal.value.finding.code, subject(refusal)) == ("verify.signature-range", "signature error")


@pytest.mark.parametrize(("r", "s"), [(1, 1), (ORDER - 1, 1), (1, ORDER - 1)])
def test_rule_5_r_and_s_at_their_bounds_are_merely_wrong(r: int, s: int) -> None:
    assert verify("k256", b"", r.to_bytes(32, "big") + s.to_bytes(32, "big"), K256_PUBLIC) is False


def test_rule_5_uncompressed_public_keys_are_taken_and_hybrid_ones_not() -> None:
    point = coincurve.PublicKey(K256_PUBLIC).format(compressed=False)
    assert verify("k256", DEADBEEF, K256_DEADBEEF, point) is True
    hybrid = bytes([6 | point[-1] & 1]) + point[1:]
    assert coincurve.PublicKey(hybrid).format() == K256_PUBLIC
    off_curve = point[:-1] + bytes([point[-1] ^ 1])
    for bad in (
        b"",
        b"\0",
        hybrid,
        off_curve,
        point[:-1],
        K256_PUBLIC[:-1],
        b"\x02" + b"\xff" * 32,
        point[1:],
    ):
        with pytest.raises(MisuseError) as refusal:
            verify("k256", DEADBEEF, K256_DEADBEEF, bad)
        assert subject(refusal) == "invalid public key"


@pytest.mark.parametrize("size", [16, 20, 31])
def test_rule_6_a_short_prehashed_value_is_padded_on_the_left(size: int) -> None:
    value = bytes(range(1, size + 1))
    signature = sign("secp256k1_prehashed", SIGN_KEY, bytes(32 - size) + value)
    assert verify("secp256k1_prehashed", value, signature, K256_PUBLIC) is True


def test_rule_6_a_long_prehashed_value_is_cut_and_a_tiny_one_verifies_nothing() -> None:
    digest = sha256(DEADBEEF)
    assert verify("secp256k1_prehashed", digest + b"more", K256_DEADBEEF, K256_PUBLIC) is True
    signature = sign("secp256k1_prehashed", SIGN_KEY, bytes(17) + b"\x01" * 15)
    assert verify("secp256k1_prehashed", b"\x01" * 15, signature, K256_PUBLIC) is False
    assert verify("secp256k1_prehashed", b"\0" + b"\x01" * 15, signature, K256_PUBLIC) is True


def test_rule_7_an_ed25519_key_is_a_point() -> None:
    # RFC 8032 5.1.3: y = 2 has no x on the curve
    for bad in (b"", ED25519_PUBLIC[:-1], ED25519_PUBLIC + b"\0", (2).to_bytes(32, "little")):
        with pytest.raises(MisuseError) as refusal:
            verify("ed25519", DEADBEEF, ED25519_DEADBEEF, bad)
        assert subject(refusal) == "invalid public key"


def test_rule_7_keys_of_small_order_and_other_encodings_are_let_through() -> None:
    # With the neutral element as key, r = the neutral element and s = 0 sign everything.
    neutral = (1).to_bytes(32, "little")
    not_canonical = (2**255 - 18).to_bytes(32, "little")
    assert verify("ed25519", b"anything", neutral + bytes(32), neutral) is True
    assert verify("ed25519", b"anything", neutral + bytes(32), not_canonical) is True
    assert verify("ed25519", b"anything", neutral + b"\x01" + bytes(31), neutral) is False


@given(st.binary(min_size=32, max_size=32))
def test_rule_7_every_key_of_a_secret_is_a_point(secret: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    assert verify("ed25519", b"", bytes(64), key) is False


@given(
    st.sampled_from(["k256", "ed25519", "secp256k1_prehashed"]),
    st.binary(max_size=70),
    st.binary(max_size=70),
)
def test_rule_5_verify_raises_nothing_but_misuse(algorithm: str, signature: bytes, key: bytes) -> None:
    for candidate in (key, K256_PUBLIC, ED25519_PUBLIC):
        try:
            assert verify(algorithm, key, signature, candidate) is False
        except MisuseError:
            continue
