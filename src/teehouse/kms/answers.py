"""What the KMS answers, computed from its root keys: no I/O, no decision (trust.md 13.4, 13.5)."""

from datetime import datetime

from teehouse.attestation.identity import encode_app_info
from teehouse.keys.appkeys import app_ca, issue_app_keys
from teehouse.keys.derive import dh_secret, p256_scalar
from teehouse.keys.envbox import environment_public_key, sign_environment_key
from teehouse.keys.pem import certificate_pem, private_key_pem
from teehouse.kms.auth import AuthInfo
from teehouse.kms.boot_info import BootInfo
from teehouse.kms.evidence import Subject
from teehouse.kms.own import certificate_attestation
from teehouse.kms.rootkeys import RootKeys
from teehouse.ratls.certificates import CertificateSpec, issue
from teehouse.ratls.csr import SigningRequest, request_key
from teehouse.ratls.oids import USAGE_APP
from teehouse.wire import kms_pb2


def app_key_response(
    keys: RootKeys, boot_info: BootInfo, gateway_app_id: str, now: datetime
) -> kms_pb2.AppKeyResponse:
    """The keys of one instance. Raises `MisuseError`, `KeyDerivationError`."""
    issued = issue_app_keys(keys.root, boot_info.app_id, boot_info.instance_id, now).keys
    return kms_pb2.AppKeyResponse(
        ca_cert=issued.ca_cert,
        disk_crypt_key=issued.disk_crypt_key,
        env_crypt_key=issued.env_crypt_key,
        k256_key=issued.k256_key,
        k256_signature=issued.k256_signature,
        tproxy_app_id=gateway_app_id,
        gateway_app_id=gateway_app_id,
        os_image_hash=boot_info.os_image_hash,
    )


def env_public_key_response(keys: RootKeys, app_id: bytes, now: datetime) -> kms_pb2.PublicKeyResponse:
    """The X25519 key that an app's environment is encrypted for, signed by the k256 root key.

    Raises `KeyDerivationError`.
    """
    secret = dh_secret(p256_scalar(keys.root.ca.key), app_id, b"env-encrypt-key")
    public = environment_public_key(secret)
    timestamp = int(now.timestamp())
    root_key = keys.root.k256_key
    return kms_pb2.PublicKeyResponse(
        public_key=public,
        signature=sign_environment_key(root_key, app_id, public),
        timestamp=timestamp,
        signature_v1=sign_environment_key(root_key, app_id, public, timestamp),
    )


def meta_response(keys: RootKeys, info: AuthInfo) -> kms_pb2.GetMetaResponse:
    """What everybody may know. Only an authorisation back-end for development lets anything upgrade."""
    told = keys.bootstrap_info
    return kms_pb2.GetMetaResponse(
        ca_cert=certificate_pem(keys.root.ca.certificate_der),
        allow_any_upgrade=info.is_dev,
        k256_pubkey=keys.root.k256_public_key,
        bootstrap_info=None
        if told is None
        else kms_pb2.BootstrapResponse(
            ca_pubkey=told.ca_pubkey, k256_pubkey=told.k256_pubkey, attestation=told.attestation
        ),
        is_dev=info.is_dev,
        gateway_app_id=info.gateway_app_id,
        kms_contract_address=info.kms_contract_address,
        chain_id=info.chain_id,
        app_auth_implementation=info.app_implementation,
    )


def kms_key_response(keys: RootKeys) -> kms_pb2.KmsKeyResponse:
    """All root keys: what one KMS tells another, and nobody else."""
    root = keys.root
    return kms_pb2.KmsKeyResponse(
        temp_ca_key=private_key_pem(root.temporary_ca.key),
        keys=[kms_pb2.KmsKeys(ca_key=private_key_pem(root.ca.key), k256_key=root.k256_key)],
    )


def temp_ca_response(keys: RootKeys) -> kms_pb2.GetTempCaCertResponse:
    """The temporary CA with its key. Who holds it can prove nothing by it."""
    return kms_pb2.GetTempCaCertResponse(
        temp_ca_cert=certificate_pem(keys.root.temporary_ca.certificate_der),
        temp_ca_key=private_key_pem(keys.root.temporary_ca.key),
        ca_cert=certificate_pem(keys.root.ca.certificate_der),
    )


def sign_cert_response(
    keys: RootKeys, request: SigningRequest, subject: Subject, now: datetime
) -> kms_pb2.SignCertResponse:
    """The chain [leaf, app CA, root CA] for a request that `subject` made (trust.md 13.5).

    A version 1 request comes from an agent whose readers know the legacy pair, so its leaf carries that too.
    Raises `MisuseError` for what no certificate can say, `EvidenceError` for an unusable key.
    """
    app_id = subject.boot_info.app_id
    authority = app_ca(keys.root.ca.key, keys.root.ca.certificate_der, app_id, now)
    legacy = request.ext_quote and request.version == 1
    spec = CertificateSpec(
        subject=request.subject,
        alt_names=request.alt_names,
        server_auth=request.server_auth,
        client_auth=request.client_auth,
        not_before=request.not_before,
        not_after=request.not_after,
        org=request.org_name,
        app_id=app_id,
        usage=USAGE_APP,
        app_info=encode_app_info(subject.app_info) if request.ext_app_info else None,
        attestation=certificate_attestation(subject.attestation) if request.ext_quote else None,
        legacy_quote=request.quote if legacy else None,
        legacy_event_log=request.event_log if legacy else None,
    )
    leaf = issue(spec, request_key(request), authority, now)
    chain = (leaf, authority.certificate_der, keys.root.ca.certificate_der)
    return kms_pb2.SignCertResponse(certificate_chain=[certificate_pem(der) for der in chain])
