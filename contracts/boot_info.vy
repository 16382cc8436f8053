# pragma version 0.4.3
# SPDX-License-Identifier: Apache-2.0
"""
@title What a KMS knows of a guest that asks for keys
@notice The bounds are those of the authorisation API; a longer text or list makes the call revert, which is a refusal.
"""

struct BootInfo:
    appId: address
    composeHash: bytes32
    instanceId: address
    deviceId: bytes32
    mrAggregated: bytes32
    mrSystem: bytes32
    osImageHash: bytes32
    tcbStatus: String[128]
    advisoryIds: DynArray[String[256], 128]


# ERC-165 ids; an interface's id is the XOR of its functions' selectors.
ERC165: constant(bytes4) = 0x01ffc9a7
APP_AUTH: constant(bytes4) = 0x1e079198  # isAppAllowed alone
