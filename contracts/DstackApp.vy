# pragma version 0.4.3
# SPDX-License-Identifier: Apache-2.0
"""
@title The policy of one app
@notice Its owner says which compose hashes may run, and on which devices. A KMS asks `isAppAllowed` before it hands
        out a key. The contract's address is the app's id.
@dev Runs behind a proxy (Proxy.vy). SPEC.md numbers what it promises and names the test of each promise.
"""

import boot_info
import erc1967
import upgradeable

initializes: upgradeable

exports: (
    upgradeable.owner,
    upgradeable.pendingOwner,
    upgradeable.transferOwnership,
    upgradeable.acceptOwnership,
    upgradeable.renounceOwnership,
    upgradeable.proxiableUUID,
    upgradeable.UPGRADE_INTERFACE_VERSION,
)


event ComposeHashAdded:
    composeHash: bytes32


event ComposeHashRemoved:
    composeHash: bytes32


event DeviceAdded:
    deviceId: bytes32


event DeviceRemoved:
    deviceId: bytes32


event UpgradesDisabled: pass


event AllowAnyDeviceSet:
    allowAny: bool


event RequireTcbUpToDateSet:
    requireUpToDate: bool


# addComposeHash ^ removeComposeHash ^ addDevice ^ removeDevice
APP_AUTH_BASIC_MANAGEMENT: constant(bytes4) = 0x8fd37527

allowedComposeHashes: public(HashMap[bytes32, bool])
allowedDeviceIds: public(HashMap[bytes32, bool])
allowAnyDevice: public(bool)
requireTcbUpToDate: public(bool)
upgradesDisabled: public(bool)


@deploy
def __init__():
    upgradeable.__init__()


@external
def initialize(
    owner: address,
    disableUpgrades: bool,
    requireTcbUpToDate: bool,
    allowAnyDevice: bool,
    deviceId: bytes32,
    composeHash: bytes32,
):
    """
    @notice Set owner and first policy, once. A zero device or compose hash means none.
    """
    self._initialize(owner, disableUpgrades, requireTcbUpToDate, allowAnyDevice, deviceId, composeHash)


@external
def __default__():
    """
    @notice `initialize` without `requireTcbUpToDate`, which is false then. Nothing else is answered.
    @dev Vyper has no overloads, so the second one is told by its selector here. `slice` reverts on shorter calldata.
    """
    assert slice(msg.data, 0, 4) == method_id("initialize(address,bool,bool,bytes32,bytes32)")
    owner: address = empty(address)
    disable_upgrades: bool = False
    any_device: bool = False
    device: bytes32 = empty(bytes32)
    compose_hash: bytes32 = empty(bytes32)
    owner, disable_upgrades, any_device, device, compose_hash = abi_decode(
        slice(msg.data, 4, 160), (address, bool, bool, bytes32, bytes32)
    )
    self._initialize(owner, disable_upgrades, False, any_device, device, compose_hash)


@internal
def _initialize(
    owner: address,
    disable_upgrades: bool,
    require_up_to_date: bool,
    any_device: bool,
    device: bytes32,
    compose_hash: bytes32,
):
    upgradeable._begin_initialize()
    assert owner != empty(address), "invalid owner address"
    upgradeable._set_owner(owner)
    # What differs from a new contract's state is logged, so that the events alone tell the state.
    if disable_upgrades:
        self._disable_upgrades()
    if require_up_to_date:
        self._set_require_tcb_up_to_date(True)
    if any_device:
        self._set_allow_any_device(True)
    if device != empty(bytes32):
        self._set_device(device, True)
    if compose_hash != empty(bytes32):
        self._set_compose_hash(compose_hash, True)
    upgradeable._end_initialize()


# The decision


@external
@view
def isAppAllowed(bootInfo: boot_info.BootInfo) -> (bool, String[32]):
    """
    @notice May a guest with this boot info have the app's keys? If not, the first reason against it.
    """
    if self.requireTcbUpToDate and bootInfo.tcbStatus != "UpToDate":
        return False, "TCB status is not up to date"
    if not self.allowedComposeHashes[bootInfo.composeHash]:
        return False, "Compose hash not allowed"
    if not self.allowAnyDevice and not self.allowedDeviceIds[bootInfo.deviceId]:
        return False, "Device not allowed"
    return True, ""


# Policy, the owner's


@external
def addComposeHash(composeHash: bytes32):
    upgradeable._check_owner()
    self._set_compose_hash(composeHash, True)


@external
def removeComposeHash(composeHash: bytes32):
    upgradeable._check_owner()
    self._set_compose_hash(composeHash, False)


@external
def addDevice(deviceId: bytes32):
    upgradeable._check_owner()
    self._set_device(deviceId, True)


@external
def removeDevice(deviceId: bytes32):
    upgradeable._check_owner()
    self._set_device(deviceId, False)


@external
def setAllowAnyDevice(allowAny: bool):
    upgradeable._check_owner()
    self._set_allow_any_device(allowAny)


@external
def setRequireTcbUpToDate(requireUpToDate: bool):
    upgradeable._check_owner()
    self._set_require_tcb_up_to_date(requireUpToDate)


@external
def disableUpgrades():
    """
    @notice Keep the present code for ever.
    """
    upgradeable._check_owner()
    self._disable_upgrades()


@external
@payable
def upgradeToAndCall(newImplementation: address, data: Bytes[erc1967.MAX_CALL]):
    """
    @notice Run other code behind this proxy, and call it with `data` unless that is empty.
    """
    upgradeable._check_proxy()
    upgradeable._check_owner()
    assert not self.upgradesDisabled, "Upgrades are permanently disabled"
    upgradeable._upgrade_to_and_call(newImplementation, data)


@internal
def _set_compose_hash(compose_hash: bytes32, allowed: bool):
    self.allowedComposeHashes[compose_hash] = allowed
    if allowed:
        log ComposeHashAdded(composeHash=compose_hash)
    else:
        log ComposeHashRemoved(composeHash=compose_hash)
    upgradeable._log_policy(keccak256("compose-hash"), compose_hash, allowed)


@internal
def _set_device(device: bytes32, allowed: bool):
    self.allowedDeviceIds[device] = allowed
    if allowed:
        log DeviceAdded(deviceId=device)
    else:
        log DeviceRemoved(deviceId=device)
    upgradeable._log_policy(keccak256("device"), device, allowed)


@internal
def _set_allow_any_device(allowed: bool):
    self.allowAnyDevice = allowed
    log AllowAnyDeviceSet(allowAny=allowed)
    upgradeable._log_policy(keccak256("allow-any-device"), empty(bytes32), allowed)


@internal
def _set_require_tcb_up_to_date(required: bool):
    self.requireTcbUpToDate = required
    log RequireTcbUpToDateSet(requireUpToDate=required)
    upgradeable._log_policy(keccak256("require-tcb-up-to-date"), empty(bytes32), required)


@internal
def _disable_upgrades():
    self.upgradesDisabled = True
    log UpgradesDisabled()
    upgradeable._log_policy(keccak256("upgrades-disabled"), empty(bytes32), True)


# What this contract is


@external
@pure
def supportsInterface(interfaceId: bytes4) -> bool:
    return interfaceId in [boot_info.APP_AUTH, APP_AUTH_BASIC_MANAGEMENT, boot_info.ERC165]


@external
@pure
def version() -> uint256:
    return 2
