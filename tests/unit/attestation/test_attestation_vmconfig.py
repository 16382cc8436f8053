"""VM configurations; the numbers in test names are the rules of `vmconfig`."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import attestation_support as support
from teehouse.attestation import vmconfig
from teehouse.attestation.vmconfig import VmConfig, parse_vm_config
from teehouse.base.findings import EvidenceError, Outcome

LITE = {
    "os_image_hash": "AA" * 32,
    "cpu_count": 2,
    "memory_size": 2147483648,
    "qemu_version": "8.2.2",
    "qemu_single_pass_add_pages": False,
    "pci_hole64_size": 0,
    "hugepages": False,
    "ovmf_variant": "pre202505",
    "tdx_attestation_variant": "lite",
    "tdx_measurement": {
        "measurement": base64.b64encode(b"cbor").decode(),
        "checksum_file": base64.b64encode(b"sums").decode(),
    },
    "spec_version": 1,
}


def test_all_members_of_a_lite_configuration_are_read() -> None:
    text = json.dumps(LITE)
    assert parse_vm_config(text) == VmConfig(
        raw=text,
        os_image_hash=b"\xaa" * 32,
        cpu_count=2,
        memory_size=2147483648,
        qemu_version="8.2.2",
        qemu_single_pass_add_pages=False,
        ovmf_variant="pre202505",
        variant="lite",
        checksum_file=b"sums",
        measurement=b"cbor",
        extra={"pci_hole64_size": 0, "hugepages": False, "spec_version": 1},
    )
    assert parse_vm_config(text.encode()) == parse_vm_config(text)
    assert hash(parse_vm_config(text)) == hash(parse_vm_config(text))


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"os_image_hash":null,"tdx_measurement":null,"tdx_attestation_variant":null}',
        '{"tdx_measurement":{"checksum_file":null}}',
        '{"tdx_attestation_variant":"legacy"}',
    ],
)
def test_rule_3_what_is_absent_or_null_is_none(text: str) -> None:
    assert parse_vm_config(text) == VmConfig(
        text, None, None, None, None, None, None, "legacy", None, None, {}
    )


def test_rule_2_a_sys_config_is_unwrapped_once() -> None:
    inner = json.dumps({"os_image_hash": "bb", "vm_config": "{}"})
    outer = json.dumps({"kms_urls": ["https://kms.example"], "os_image_hash": "aa", "vm_config": inner})
    config = parse_vm_config(outer)
    assert (config.raw, config.os_image_hash, config.extra) == (inner, b"\xbb", {"vm_config": "{}"})


def test_rule_2_a_vm_config_that_is_no_string_is_an_unknown_member() -> None:
    assert parse_vm_config('{"vm_config":{"cpu_count":7}}').extra == {"vm_config": {"cpu_count": 7}}


def test_rule_1_a_text_of_the_limit_is_read_and_one_character_more_is_not() -> None:
    longest = "{}".ljust(vmconfig.CONFIG_LIMIT)
    assert parse_vm_config(longest).raw == longest
    with pytest.raises(EvidenceError) as error:
        parse_vm_config(longest + " ")
    assert support.refusal(error) == ("vm-config.too-long", Outcome.MALFORMED)


@pytest.mark.parametrize(
    ("text", "code", "outcome"),
    [
        ("", "vm-config.not-json", Outcome.MALFORMED),
        ("[]", "vm-config.not-object", Outcome.MALFORMED),
        ('{"a":1,"a":1}', "vm-config.duplicate-member", Outcome.MALFORMED),
        ('{"vm_config":"["}', "vm-config.not-json", Outcome.MALFORMED),
        ('{"os_image_hash":"0x00"}', "vm-config.not-hex", Outcome.MALFORMED),
        ('{"os_image_hash":1}', "vm-config.member", Outcome.MALFORMED),
        ('{"cpu_count":"2"}', "vm-config.member", Outcome.MALFORMED),
        ('{"cpu_count":4294967296}', "vm-config.member", Outcome.MALFORMED),
        ('{"memory_size":18446744073709551616}', "vm-config.member", Outcome.MALFORMED),
        ('{"memory_size":2e9}', "vm-config.member", Outcome.MALFORMED),
        ('{"memory_size":-1}', "vm-config.member", Outcome.MALFORMED),
        ('{"qemu_version":8}', "vm-config.member", Outcome.MALFORMED),
        ('{"qemu_single_pass_add_pages":1}', "vm-config.member", Outcome.MALFORMED),
        ('{"tdx_measurement":"x"}', "vm-config.member", Outcome.MALFORMED),
        ('{"tdx_measurement":{"measurement":1}}', "vm-config.member", Outcome.MALFORMED),
        ('{"tdx_measurement":{"measurement":"_w=="}}', "vm-config.not-base64", Outcome.MALFORMED),
        ('{"tdx_measurement":{"checksum_file":"AA"}}', "vm-config.not-base64", Outcome.MALFORMED),
        ('{"tdx_measurement":{"checksum_file":"\u20ac"}}', "vm-config.not-base64", Outcome.MALFORMED),
        ('{"ovmf_variant":"\\ud800"}', "vm-config.not-utf8", Outcome.MALFORMED),
        ('{"tdx_attestation_variant":"full"}', "vm-config.variant", Outcome.UNSUPPORTED),
    ],
)
def test_rules_1_3_and_4_bad_configurations_are_refused(text: str, code: str, outcome: Outcome) -> None:
    with pytest.raises(EvidenceError) as error:
        parse_vm_config(text)
    assert support.refusal(error) == (code, outcome)


JSON_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@given(
    st.dictionaries(
        st.sampled_from([*LITE, "vm_config"]), JSON_VALUES | st.dictionaries(st.text(), JSON_VALUES)
    )
)
def test_arbitrary_members_raise_only_evidence_errors(members: dict[str, object]) -> None:
    with suppress(EvidenceError):
        parse_vm_config(json.dumps(members))


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60)))
def test_arbitrary_text_raises_only_evidence_errors(text: str | bytes) -> None:
    with suppress(EvidenceError):
        parse_vm_config(text)
