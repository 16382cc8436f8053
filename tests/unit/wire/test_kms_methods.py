"""Path resolution and messages of the KMS (trust.md 13.1, 13.2); the numbers are the rules of `wire.kms_methods`."""

import pytest

from teehouse.wire import jsonmap, kms_pb2
from teehouse.wire.kms_methods import KMS_METHODS, KmsServiceName, resolve_kms
from teehouse.wire.methods import Unknown


def test_the_table_holds_every_method_with_its_messages() -> None:
    signatures = {
        service: {
            name: (m.request.DESCRIPTOR.name, m.response.DESCRIPTOR.name) for name, m in methods.items()
        }
        for service, methods in KMS_METHODS.items()
    }
    assert signatures == {
        "KMS": {
            "GetAppKey": ("GetAppKeyRequest", "AppKeyResponse"),
            "GetAppEnvEncryptPubKey": ("AppId", "PublicKeyResponse"),
            "GetMeta": ("Empty", "GetMetaResponse"),
            "GetKmsKey": ("GetKmsKeyRequest", "KmsKeyResponse"),
            "GetTempCaCert": ("Empty", "GetTempCaCertResponse"),
            "SignCert": ("SignCertRequest", "SignCertResponse"),
        },
        "Onboard": {
            "Bootstrap": ("BootstrapRequest", "BootstrapResponse"),
            "Onboard": ("OnboardRequest", "OnboardResponse"),
            "GetAttestationInfo": ("Empty", "AttestationInfoResponse"),
            "Finish": ("Empty", "Empty"),
        },
        "Admin": {"ClearImageCache": ("ClearImageCacheRequest", "Empty")},
    }


@pytest.mark.parametrize(
    ("service", "path", "name"),
    [
        ("KMS", "/prpc/GetMeta", "GetMeta"),
        ("KMS", "/prpc/KMS.GetMeta", "GetMeta"),
        ("KMS", "/prpc/GetMeta/", "GetMeta"),
        ("Onboard", "/prpc/Onboard.Bootstrap", "Bootstrap"),
        ("Onboard", "/prpc/Onboard", "Onboard"),
        ("Onboard", "/prpc/Onboard.Onboard", "Onboard"),
        ("Admin", "/prpc/Admin.ClearImageCache", "ClearImageCache"),
    ],
)
def test_rule_1_names_a_method(service: KmsServiceName, path: str, name: str) -> None:
    assert resolve_kms(service, path) is KMS_METHODS[service][name]


@pytest.mark.parametrize(
    ("service", "path", "rest"),
    [
        ("KMS", "/GetMeta", "GetMeta"),
        ("KMS", "/prpc/Bootstrap", "Bootstrap"),
        ("KMS", "/prpc/Onboard.Bootstrap", "Onboard.Bootstrap"),
        ("KMS", "/prpc/KMS.KMS.GetMeta", "KMS.GetMeta"),
        ("KMS", "/prpc/getmeta", "getmeta"),
        ("KMS", "/", ""),
        ("Onboard", "/prpc/KMS.GetKmsKey", "KMS.GetKmsKey"),
    ],
)
def test_rule_2_says_what_is_unknown(service: KmsServiceName, path: str, rest: str) -> None:
    assert resolve_kms(service, path) == Unknown(f"Service not found: {rest}")


def test_field_numbers_are_those_of_the_wire() -> None:
    message = kms_pb2.AppKeyResponse(
        ca_cert="c", disk_crypt_key=b"d", env_crypt_key=b"e", k256_key=b"k", k256_signature=b"s"
    )
    message.tproxy_app_id, message.gateway_app_id, message.os_image_hash = "t", "g", b"h"
    letters = (letter.to_bytes() for letter in b"cdekstgh")
    parts = [bytes([number << 3 | 2, 1]) + letter for number, letter in enumerate(letters, 1)]
    assert jsonmap.encode_protobuf(message) == b"".join(parts)


def test_absent_members_of_meta_are_null() -> None:
    assert jsonmap.encode_json(kms_pb2.GetMetaResponse(k256_pubkey=b"\xab", chain_id=1)) == (
        b'{"ca_cert":"","allow_any_upgrade":false,"k256_pubkey":"ab",'
        b'"bootstrap_info":{"ca_pubkey":"","k256_pubkey":"","attestation":""},"is_dev":false,'
        b'"gateway_app_id":null,"kms_contract_address":null,"chain_id":1,"app_auth_implementation":null}'
    )
