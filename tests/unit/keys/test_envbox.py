"""The encrypted environment, the launch token and the environment key (trust.md 14, `teehouse.keys.envbox`)."""

import json
import time
import warnings
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from dstack_sdk import EnvVar, encrypt_env_vars
from dstack_sdk.verify_env_encrypt_public_key import (
    verify_env_encrypt_public_key,
    verify_env_encrypt_public_key_legacy,
)
from hypothesis import given
from hypothesis import strategies as st

from support.keys_support import APP_ID, DUMMY
from teehouse.base.findings import EvidenceError, Finding, MisuseError, Outcome
from teehouse.keys.derive import dh_secret
from teehouse.keys.envbox import (
    BOX_LIMIT,
    NAME_LIMIT,
    VARIABLES_LIMIT,
    Variable,
    check_environment_key,
    check_launch_token,
    environment_key_digest,
    environment_public_key,
    filter_environment,
    launch_token_hash,
    open_environment,
    seal_environment,
    sign_environment_key,
)
from teehouse.keys.signing import public_key

SECRET = dh_secret(DUMMY, APP_ID, b"env-encrypt-key")
PUBLIC = environment_public_key(SECRET)
EPHEMERAL = b"\x05" * 32
IV = b"\x06" * 12
VARIABLES = (Variable("A", "1"), Variable("PASSWORD", 'tür "und" tor\n'), Variable("A", ""))
KMS_PUBLIC = public_key("secp256k1", DUMMY)
NOW = 1_790_000_000


def box(content: bytes, *, iv: bytes = IV) -> bytes:
    """Any content, sealed as a sender would."""
    private = X25519PrivateKey.from_private_bytes(EPHEMERAL)
    shared = private.exchange(X25519PublicKey.from_public_bytes(PUBLIC))
    return private.public_key().public_bytes_raw() + iv + AESGCM(shared).encrypt(iv, content, None)


async def test_what_the_official_client_encrypts_opens() -> None:
    sealed = await encrypt_env_vars([EnvVar(v.key, v.value) for v in VARIABLES], PUBLIC.hex())
    assert open_environment(SECRET, bytes.fromhex(sealed)) == VARIABLES


def test_rule_1_the_form_of_a_box() -> None:
    content = (
        b'{"env":[{"key":"A","value":"1"},{"key":"PASSWORD","value":"t\xc3\xbcr \\"und\\" tor\\n"},'
        b'{"key":"A","value":""}]}'
    )
    sealed = seal_environment(PUBLIC, VARIABLES, ephemeral=EPHEMERAL, iv=IV)
    assert sealed == box(content)
    assert sealed[:44] == environment_public_key(EPHEMERAL) + IV
    assert len(sealed) == 32 + 12 + len(content) + 16


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
names = texts.filter(lambda text: text and not set(text) & set("=\r\n"))


@given(st.lists(st.builds(Variable, names, texts), max_size=8), st.binary(min_size=12, max_size=12))
def test_what_is_sealed_opens(variables: list[Variable], iv: bytes) -> None:
    sealed = seal_environment(PUBLIC, variables, ephemeral=EPHEMERAL, iv=iv)
    assert open_environment(SECRET, sealed) == tuple(variables)


@given(st.binary(max_size=200))
def test_any_bytes_raise_evidence_errors_only(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        open_environment(SECRET, data)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(st.sampled_from(["env", "key", "value", "x"]), x, max_size=3)
        ),
    )
)
def test_any_content_is_variables_or_refused(value: Any) -> None:
    try:
        found = open_environment(SECRET, box(json.dumps(value).encode()))
    except EvidenceError:
        return
    assert all(isinstance(variable, Variable) for variable in found)


def code(box_bytes: bytes) -> str:
    with pytest.raises(EvidenceError) as caught:
        open_environment(SECRET, box_bytes)
    return caught.value.finding.code


@pytest.mark.parametrize("size", [0, 59, BOX_LIMIT + 1])
def test_a_box_has_bounds(size: int) -> None:
    assert code(bytes(size)) == "environment-box.size"


def test_the_largest_box_opens() -> None:
    content = b'{"env":[{"key":"A","value":"1"}]}'
    full = box(content + b" " * (BOX_LIMIT - 60 - len(content)))
    assert len(full) == BOX_LIMIT
    assert open_environment(SECRET, full) == (Variable("A", "1"),)


@pytest.mark.parametrize("place", [0, 40, 50, -1])
def test_a_changed_box_does_not_open(place: int) -> None:
    changed = bytearray(seal_environment(PUBLIC, VARIABLES, ephemeral=EPHEMERAL, iv=IV))
    changed[place] ^= 1
    assert code(bytes(changed)) == "environment-box.tag"


def test_another_apps_key_does_not_open() -> None:
    sealed = seal_environment(PUBLIC, VARIABLES, ephemeral=EPHEMERAL, iv=IV)
    with pytest.raises(EvidenceError) as caught:
        open_environment(EPHEMERAL, sealed)
    assert caught.value.finding.outcome is Outcome.REJECTED


@pytest.mark.parametrize(
    "point",
    [  # points of small order (RFC 7748, section 7): the shared secret is zero whatever the secret
        bytes(32),
        b"\x01" + bytes(31),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ],
)
def test_rule_1_a_shared_secret_of_zeros_is_refused(point: bytes) -> None:
    assert (
        code(point + IV + AESGCM(bytes(32)).encrypt(IV, b'{"env":[]}', None)) == "environment-box.zero-secret"
    )
    with pytest.raises(EvidenceError) as caught:
        seal_environment(point, (), ephemeral=EPHEMERAL, iv=IV)
    assert caught.value.finding.code == "environment-box.zero-secret"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is no JSON in UTF-8"),
        (b"\xff", "is no JSON in UTF-8"),
        (b"[" * 100_000, "is no JSON in UTF-8"),
        (b"[]", "has no list in its member env"),
        (b'{"env":{}}', "has no list in its member env"),
        (b'{"env":[],"env":[]}', "names a member of an object twice"),
        (b'{"env":[{"key":"A","key":"B","value":""}]}', "names a member of an object twice"),
        (b'{"env":["A"]}', "has a variable without key and value as strings"),
        (b'{"env":[{"key":"A"}]}', "has a variable without key and value as strings"),
        (b'{"env":[{"key":1,"value":"secret"}]}', "has a variable without key and value as strings"),
        (b'{"env":[{"key":"A","value":null}]}', "has a variable without key and value as strings"),
        (b'{"env":[{"key":"","value":"secret"}]}', "has a variable whose name no process can be given"),
        (b'{"env":[{"key":"A=B","value":"secret"}]}', "has a variable whose name no process can be given"),
        (b'{"env":[{"key":"A\\n","value":"secret"}]}', "has a variable whose name no process can be given"),
        (b'{"env":[{"key":"A\\r","value":"secret"}]}', "has a variable whose name no process can be given"),
        (b'{"env":[{"key":"A\\u0000","value":""}]}', "has a variable whose name no process can be given"),
        (
            b'{"env":[{"key":"' + b"A" * (NAME_LIMIT + 1) + b'","value":""}]}',
            "has a variable whose name no process can be given",
        ),
        (b'{"env":[{"key":"A","value":"\\u0000"}]}', "has a variable whose value no process can be given"),
        (b'{"env":[{"key":"\\ud800","value":""}]}', "has text that is not valid Unicode"),
        (b'{"env":[{"key":"A","value":"\\udfff"}]}', "has text that is not valid Unicode"),
        (
            b'{"env":[' + b",".join([b"{}"] * (VARIABLES_LIMIT + 1)) + b"]}",
            f"has more than {VARIABLES_LIMIT} variables",
        ),
    ],
)
def test_rule_2_content_of_another_form_is_refused(content: bytes, what: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        open_environment(SECRET, box(content))
    assert caught.value.finding == Finding(
        "environment.malformed", f"the environment {what}", Outcome.MALFORMED
    )
    assert "secret" not in str(caught.value)


def test_the_most_variables_and_the_longest_name_open() -> None:
    many = [{"key": "A" * NAME_LIMIT, "value": ""}, *({"key": "B", "value": ""},) * (VARIABLES_LIMIT - 1)]
    assert (
        len(open_environment(SECRET, box(json.dumps({"env": many, "more": 1}).encode()))) == VARIABLES_LIMIT
    )


@pytest.mark.parametrize(
    ("variables", "options", "wrong"),
    [
        ([Variable("A=", "v")], {}, "environment.malformed"),
        ([Variable("A", "\0")], {}, "environment.malformed"),
        ([Variable("A", "\ud800")], {}, "text.not-unicode"),
        ([Variable("A", "v" * BOX_LIMIT)], {}, "environment-box.too-long"),
        ([], {"iv": b"short"}, "environment-box.iv"),
        ([], {"ephemeral": b"short"}, "environment-box.secret"),
    ],
)
def test_what_cannot_be_sealed_is_misuse(
    variables: list[Variable], options: dict[str, bytes], wrong: str
) -> None:
    with pytest.raises(MisuseError) as caught:
        seal_environment(PUBLIC, variables, **{"ephemeral": EPHEMERAL, "iv": IV, **options})
    assert caught.value.finding.code == wrong


def test_keys_have_their_sizes() -> None:
    with pytest.raises(EvidenceError) as caught:
        seal_environment(b"short", (), ephemeral=EPHEMERAL, iv=IV)
    assert caught.value.finding.code == "environment-box.public-key"
    with pytest.raises(MisuseError):
        open_environment(b"short", bytes(60))


def test_values_are_not_shown() -> None:
    assert repr(Variable("A", "secret")) == "Variable(key='A')"


def test_rule_3_only_what_is_allowed_is_kept() -> None:
    found = (Variable("A", "1"), Variable("LD_PRELOAD", "evil"), Variable("B", "2"), Variable("A", "3"))
    kept, findings = filter_environment(found, ["A", "B", "C"])
    assert kept == (Variable("B", "2"), Variable("A", "3"))
    assert findings == (
        Finding(
            "environment.not-allowed",
            'the variable "LD_PRELOAD" is dropped',
            Outcome.REJECTED,
            "a name in allowed_envs of the app-compose",
            "none",
            check="3",
        ),
        Finding(
            "environment.twice",
            'a former value of the variable "A" is dropped',
            Outcome.REJECTED,
            "one value",
            "several, of which the last counts",
            check="3",
        ),
    )


def test_nothing_allowed_keeps_nothing() -> None:
    kept, findings = filter_environment(VARIABLES, ())
    assert (kept, len(findings)) == ((), 3)


TOKEN = b"unit-test-launch-token-0000000001"


def test_rule_4_launch_tokens() -> None:
    # trust.md 14
    expected = bytes.fromhex("28faa1319055d733ad9651f5ab7689c15b04609846bcd27b3c5bc8df6246f5a3")
    assert launch_token_hash(TOKEN) == expected
    assert check_launch_token(TOKEN, expected) == Finding("launch-token", "the launch token", check="4")


@pytest.mark.parametrize(
    ("token", "expected", "found"),
    [
        (None, "a token", "none"),
        (b"x" * 31, "at least 32 bytes", "31"),
        (b"x" * 32, "the token whose hash the app-compose says", "another"),
    ],
)
def test_rule_4_other_tokens_are_refused(token: bytes | None, expected: str, found: str) -> None:
    wanted = launch_token_hash(TOKEN if token is None or len(token) > 31 else token)
    finding = check_launch_token(token, wanted)
    assert (finding.outcome, finding.expected, finding.found) == (Outcome.REJECTED, expected, found)


def test_rule_5_the_official_client_accepts_our_signatures() -> None:
    now = int(time.time())
    assert (
        verify_env_encrypt_public_key(
            PUBLIC, sign_environment_key(DUMMY, APP_ID, PUBLIC, now), APP_ID.hex(), now
        )
        == "0x" + KMS_PUBLIC.hex()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what the official client says of the older form
        signer = verify_env_encrypt_public_key_legacy(
            PUBLIC, sign_environment_key(DUMMY, APP_ID, PUBLIC), APP_ID.hex()
        )
    assert signer == "0x" + KMS_PUBLIC.hex()


@pytest.mark.parametrize("age", [-60, 0, 300])
def test_rule_5_what_the_trusted_kms_signed_is_accepted(age: int) -> None:
    accepted = Finding(
        "environment-key", "the key for the encrypted environment", found=KMS_PUBLIC.hex(), check="5"
    )
    timed = sign_environment_key(DUMMY, APP_ID, PUBLIC, NOW - age)
    assert check_environment_key(APP_ID, PUBLIC, timed, KMS_PUBLIC, timestamp=NOW - age, now=NOW) == accepted
    assert (
        check_environment_key(APP_ID, PUBLIC, sign_environment_key(DUMMY, APP_ID, PUBLIC), KMS_PUBLIC)
        == accepted
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"timestamp": NOW - 301}, "a signature at most 300 seconds old"),
        ({"timestamp": NOW + 61}, "a signature at most 300 seconds old"),
        ({"timestamp": -1}, "a time in UNIX seconds"),
        ({"timestamp": 2**64}, "a time in UNIX seconds"),
        ({"timestamp": None}, KMS_PUBLIC.hex()),
        ({"timestamp": NOW - 1}, KMS_PUBLIC.hex()),
        ({"app_id": bytes(20)}, KMS_PUBLIC.hex()),
        ({"public_key": bytes(32)}, KMS_PUBLIC.hex()),
        ({"trusted": b"\x02" + bytes(32)}, (b"\x02" + bytes(32)).hex()),
        ({"signature": b"x" * 64}, "a signature of 65 bytes"),
        ({"signature": bytes(65)}, "a signature that belongs to a key"),
        ({"signature": b"x" * 64 + b"\x1b"}, "a signature that belongs to a key"),
    ],
)
def test_rule_5_everything_else_is_refused(changes: dict[str, Any], expected: str) -> None:
    arguments: dict[str, Any] = {
        "app_id": APP_ID,
        "public_key": PUBLIC,
        "signature": sign_environment_key(DUMMY, APP_ID, PUBLIC, NOW),
        "trusted": KMS_PUBLIC,
        "timestamp": NOW,
        "now": NOW,
    }
    finding = check_environment_key(**{**arguments, **changes})
    assert (finding.code, finding.outcome, finding.expected) == (
        "environment-key",
        Outcome.REJECTED,
        expected,
    )


def test_a_time_out_of_range_is_not_signed() -> None:
    for timestamp in (-1, 2**64):
        with pytest.raises(MisuseError):
            environment_key_digest(APP_ID, PUBLIC, timestamp)
