"""The app's key file (teehouse.keys.appkeys), by the rule numbers of its docstring."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from support.keys_support import APP_ID, NOW, SEED, SIM, sample
from teehouse.base.findings import MisuseError
from teehouse.keys import appkeys, signing
from teehouse.keys.appkeys import (
    AppKeys,
    KmsProvider,
    OwnCa,
    generate_with_self_made_kms,
    generate_without_kms,
    parse_app_keys,
)
from teehouse.keys.derive import KeyDerivationError, derive_p256, dh_secret, hkdf, p256_scalar
from teehouse.keys.pem import certificate_der, private_key_pem, spki_der

INSTANCE_ID = bytes(range(20))
OWN = generate_without_kms(SEED, NOW, gateway_app_id="any")
KMS = generate_with_self_made_kms(SEED, APP_ID, INSTANCE_ID, NOW, url="https://kms.test:8000").keys


def changed(keys: AppKeys = OWN, /, **members: Any) -> str:
    """The key file with members replaced; None removes one."""
    source = json.loads(keys.to_json()) | members
    return json.dumps({name: value for name, value in source.items() if value is not None})


def test_rule_1_the_simulators_file() -> None:
    text = sample("simulator-appkeys.json").read_text()
    keys = parse_app_keys(text)
    source = json.loads(text)
    assert keys.k256_key == SIM
    assert isinstance(keys.key_provider, OwnCa)
    assert keys.key_provider.kind == "None"
    assert json.loads(keys.to_json()) == source
    # guest-agent.md 19.3: what the published certificate has by the rules of 9.1
    certificate = x509.load_der_x509_certificate(keys.own_issuer().certificate_der)
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert f"{certificate.serial_number:040x}" == "53bf34d7e92b0acd8ea487677b7b7a396ac9d9f3"
    assert identifier.digest.hex() == "7af8c9f9564fbc3c472767a38de21a51830c7047"


@pytest.mark.parametrize(
    "keys",
    [
        OWN,
        generate_without_kms(SEED, NOW, kind="Local", binding=b"\x01" * 32),
        generate_without_kms(SEED, NOW, kind="Tpm", binding=b"\x02" * 91),
        KMS,
    ],
)
def test_rule_1_a_file_reads_as_it_was_written(keys: AppKeys) -> None:
    assert parse_app_keys(keys.to_json()) == keys
    assert parse_app_keys(keys.to_json().encode()) == keys


def test_rule_1_members_of_every_provider() -> None:
    kinds = {
        "None": ["key"],
        "Local": ["key", "mr"],
        "Tpm": ["key", "pubkey"],
    }
    for kind, members in kinds.items():
        described = json.loads(generate_without_kms(SEED, NOW, kind=kind).to_json())["key_provider"]
        assert {name: list(value) for name, value in described.items()} == {kind: members}
    assert list(json.loads(KMS.to_json())["key_provider"]["Kms"]) == [
        "url",
        "pubkey",
        "tmp_ca_key",
        "tmp_ca_cert",
    ]


def test_rule_1_absent_env_key_and_unknown_members() -> None:
    text = changed(env_crypt_key=None, added_later=[1])
    assert parse_app_keys(text) == replace(OWN, env_crypt_key=b"")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (" " * (256 * 1024 + 1), "appkeys.too-long"),
        ("", "appkeys.not-json"),
        ("[" * 100_000, "appkeys.not-json"),
        ("1" * 5000, "appkeys.not-json"),
        (b"\xff", "appkeys.not-json"),
        ("[]", "appkeys.not-object"),
        ("{}", "appkeys.malformed"),
        (changed(k256_key=None), "appkeys.malformed"),
        (changed(k256_key=5), "appkeys.malformed"),
        (changed(k256_key="zz" * 32), "appkeys.malformed"),
        (changed(k256_key="é" * 32), "appkeys.malformed"),
        (changed(k256_key="01" * 31), "appkeys.malformed"),
        (changed(k256_key=" " + "01" * 32), "appkeys.malformed"),
        (changed(k256_signature="01" * 64), "appkeys.malformed"),
        (changed(disk_crypt_key="01" * 1025), "appkeys.malformed"),
        (changed(gateway_app_id=None), "appkeys.malformed"),
        (changed(key_provider=None), "appkeys.malformed"),
        (changed(key_provider={}), "appkeys.malformed"),
        (changed(key_provider={"None": {}, "Tpm": {}}), "appkeys.malformed"),
        (changed(key_provider={"None": ""}), "appkeys.malformed"),
        (changed(key_provider={"none": {"key": ""}}), "appkeys.malformed"),
        (changed(key_provider={"Local": {"key": ""}}), "appkeys.malformed"),
        (changed(key_provider={"Kms": {"url": ""}}), "appkeys.malformed"),
        (changed(ca_cert="none"), "pem.no-certificate"),
        (changed(KMS, ca_cert="none"), "pem.no-certificate"),
        (changed(key_provider={"None": {"key": "none"}}), "pem.no-private-key"),
    ],
)
def test_rules_1_and_2_files_that_are_refused(text: str | bytes, code: str) -> None:
    with pytest.raises(MisuseError) as refusal:
        parse_app_keys(text)
    assert refusal.value.finding.code == code


def test_rule_1_the_largest_values_are_taken() -> None:
    text = changed(disk_crypt_key="01" * 1024)
    assert parse_app_keys(text + " " * (256 * 1024 - len(text))).disk_crypt_key == b"\x01" * 1024


@given(st.text(max_size=60))
def test_rule_1_other_text_is_misuse(text: str) -> None:
    with pytest.raises(MisuseError):
        parse_app_keys(text)


def test_rule_2_an_impossible_root_key_is_found_at_once() -> None:
    with pytest.raises(KeyDerivationError, match="Failed to parse k256 key"):
        parse_app_keys(changed(k256_key="00" * 32))


def test_rule_3_a_key_of_another_certificate_is_refused() -> None:
    other = private_key_pem(derive_p256(SIM, b"other"))
    sentence = (
        "the private key in the app keys does not belong to {} "
        "(restore the app keys as they were made; they cannot be mixed)"
    )
    with pytest.raises(MisuseError) as refusal:
        parse_app_keys(changed(key_provider={"None": {"key": other}}))
    assert refusal.value.finding.sentence() == sentence.format("ca_cert")

    assert isinstance(KMS.key_provider, KmsProvider)
    mixed = replace(KMS, key_provider=replace(KMS.key_provider, tmp_ca_key=other))
    with pytest.raises(MisuseError) as refusal:
        parse_app_keys(mixed.to_json())
    assert refusal.value.finding.sentence() == sentence.format("tmp_ca_cert")


def test_rule_4_keys_without_kms() -> None:
    # guest-agent.md 19.1, computed; seed 00..1f
    assert OWN.k256_key.hex() == "091c9c36eb873f1aacde93e91631256e1610ce9940166b45f437d635d76ba95e"
    assert OWN.disk_crypt_key.hex() == "16271dff935a2b916181f4c8a0a6666de98224ba51437c329171a11dd481a09a"
    assert (OWN.k256_signature, OWN.env_crypt_key) == (b"", b"")
    issuer = OWN.own_issuer()
    assert p256_scalar(issuer.key).hex() == "0a6ae75425993b828ace490021809dcda469d5b531b018a27fdd28cd6d81115e"
    certificate = x509.load_der_x509_certificate(issuer.certificate_der)
    certificate.verify_directly_issued_by(certificate)
    assert certificate.subject.rfc4514_string() == "CN=App Root Cert"
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value == (
        x509.BasicConstraints(ca=True, path_length=1)
    )


def test_rule_4_keys_under_a_kms() -> None:
    # trust.md 13.4, formula by formula
    issued = generate_with_self_made_kms(SEED, APP_ID, INSTANCE_ID, NOW, gateway_app_id="g")
    root = appkeys.kms_root(SEED, NOW)
    ca_scalar = p256_scalar(root.ca.key)
    keys = issued.keys
    assert keys.disk_crypt_key == dh_secret(ca_scalar, APP_ID, INSTANCE_ID, b"app-disk-crypt-key")
    assert keys.env_crypt_key == dh_secret(ca_scalar, APP_ID, b"env-encrypt-key")
    assert keys.k256_key == hkdf(root.k256_key, APP_ID, b"app-key")
    assert keys.gateway_app_id == "g"
    assert p256_scalar(issued.app_ca.key) == hkdf(ca_scalar, APP_ID, b"app-ca")
    digest = signing.kms_digest(APP_ID, signing.public_key("", keys.k256_key))
    assert signing.recover_public_key(digest, keys.k256_signature) == issued.kms_public_key
    assert isinstance(keys.key_provider, KmsProvider)
    assert keys.key_provider.pubkey == spki_der(root.ca.key.public_key())
    assert issued.chain == (issued.app_ca.certificate_der, root.ca.certificate_der)
    assert certificate_der(keys.ca_cert) == root.ca.certificate_der
    with pytest.raises(MisuseError, match="the app's CA key is with its KMS"):
        keys.own_issuer()


def test_rule_4_what_instances_and_apps_share() -> None:
    first, second, stranger = (
        generate_with_self_made_kms(SEED, app, instance, NOW)
        for app, instance in ((APP_ID, INSTANCE_ID), (APP_ID, b""), (bytes(20), INSTANCE_ID))
    )
    assert first.keys.k256_key == second.keys.k256_key
    assert first.app_ca.certificate_der == second.app_ca.certificate_der
    assert first.keys.disk_crypt_key != second.keys.disk_crypt_key
    assert first.chain[1] == stranger.chain[1]
    assert first.app_ca.certificate_der != stranger.app_ca.certificate_der


def test_rule_4_the_certificates_above_a_leaf() -> None:
    issued = generate_with_self_made_kms(SEED, APP_ID, INSTANCE_ID, NOW)
    app_ca, root = (x509.load_der_x509_certificate(der) for der in issued.chain)
    app_ca.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    names = [certificate.subject.rfc4514_string() for certificate in (app_ca, root)]
    assert names == ["CN=Dstack App CA,O=Dstack", "CN=Dstack KMS CA,O=Dstack"]
    lengths = [
        certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        for certificate in (app_ca, root)
    ]
    assert lengths == [0, 1]
    ours = {
        extension.oid.dotted_string: extension.value.value
        for extension in app_ca.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    assert ours == {
        "1.3.6.1.4.1.62397.1.3": b"\x04\x14" + APP_ID,
        "1.3.6.1.4.1.62397.1.4": b"\x04\x06app:ca",
    }


def test_rule_5_the_same_seed_and_instant_give_the_same_file() -> None:
    assert generate_without_kms(SEED, NOW, gateway_app_id="any").to_json() == OWN.to_json()
    again = generate_with_self_made_kms(SEED, APP_ID, INSTANCE_ID, NOW, url="https://kms.test:8000")
    assert again.keys.to_json() == KMS.to_json()
    later = generate_without_kms(SEED, NOW + timedelta(days=1), gateway_app_id="any")
    assert later.k256_key == OWN.k256_key
    assert later.ca_cert != OWN.ca_cert


def test_wrong_sizes_and_names_are_misuse() -> None:
    attempts = {
        "appkeys.seed-size": lambda: generate_without_kms(SEED[1:], NOW),
        "appkeys.kind": lambda: generate_without_kms(SEED, NOW, kind="Kms"),
        "appkeys.app-id-size": lambda: generate_with_self_made_kms(SEED, b"", b"", NOW),
    }
    for code, attempt in attempts.items():
        with pytest.raises(MisuseError) as refusal:
            attempt()
        assert refusal.value.finding.code == code


def test_no_repr_shows_a_secret() -> None:
    issued = generate_with_self_made_kms(SEED, APP_ID, INSTANCE_ID, NOW)
    root = appkeys.kms_root(SEED, NOW)
    shown = repr(OWN) + repr(issued) + repr(root)
    secrets = [
        OWN.k256_key,
        OWN.disk_crypt_key,
        issued.keys.k256_key,
        issued.keys.env_crypt_key,
        root.k256_key,
    ]
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    assert "PRIVATE KEY" not in shown
    assert "PrivateKey" not in shown
