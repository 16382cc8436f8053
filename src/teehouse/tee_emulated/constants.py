"""What all emulated platforms have in common: identities and security versions (trust.md 6.2).

The values are chosen so that they match the collateral of `teehouse.tee_emulated.collateral`, at
its newest level. Identities are hashes of sentences that say what they are.
"""

from teehouse.base.hashes import sha256, sha384

FMSPC = bytes.fromhex("00806f050000")  # 6 bytes: the family that TCB info is published for
PCE_ID = bytes(2)
PCE_SVN = 13
CPU_SVN = bytes.fromhex("03030202040100050000000000000000")  # 16 component versions, a byte each
SGX_TYPE = 1  # scalable

TEE_TCB_SVN = bytes.fromhex("05010400000000000000000000000000")  # module version 1 at svn 5, then a component
TDX_MODULE_ID = "TDX_01"
TDX_MODULE_SVN = 5
TD_ATTRIBUTES = bytes.fromhex("0000001000000000")  # SEPT_VE_DISABLE alone
XFAM = bytes.fromhex("e702060000000000")
MR_SEAM = sha384(b"Teehouse emulated TDX module")
MR_SIGNER_SEAM = bytes(48)  # zero stands for Intel's own module; verifiers of the field insist on it
SEAM_ATTRIBUTES = bytes(8)

QE_ATTRIBUTES = bytes.fromhex("11000000000000000700000000000000")
QE_PRODUCT_ID = 2
QE_SVN = 4
QE_MR_ENCLAVE = sha256(b"Teehouse emulated quoting enclave")
QE_MR_SIGNER = sha256(b"Teehouse emulated quoting enclave signer")
QE_AUTH_DATA = bytes(range(32))
QE_ID = sha256(b"Teehouse emulated quoting enclave id")[:16]
