# pragma version 0.4.3
# SPDX-License-Identifier: Apache-2.0
"""
@title The policy of one KMS, the register of its apps and their factory
@notice The owner says which KMS code may hold the root keys and which guest images may run apps. Anyone may register
        an app: registration gives nothing but the right to be asked.
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


event AppRegistered:
    appId: address


event KmsInfoSet:
    k256Pubkey: Bytes[MAX_KEY]


event KmsAggregatedMrAdded:
    mrAggregated: bytes32


event KmsAggregatedMrRemoved:
    mrAggregated: bytes32


event KmsDeviceAdded:
    deviceId: bytes32


event KmsDeviceRemoved:
    deviceId: bytes32


event OsImageHashAdded:
    osImageHash: bytes32


event OsImageHashRemoved:
    osImageHash: bytes32


event GatewayAppIdSet:
    gatewayAppId: String[MAX_GATEWAY]


event AppImplementationSet:
    implementation: address


event AppDeployedViaFactory:
    appId: indexed(address)
    deployer: indexed(address)


struct KmsInfo:
    k256Pubkey: Bytes[MAX_KEY]
    caPubkey: Bytes[MAX_KEY]
    quote: Bytes[MAX_QUOTE]
    eventlog: Bytes[MAX_EVENTLOG]


# Sizes in bytes. All of KmsInfo fits into the answer that the proxy forwards.
MAX_KEY: constant(uint256) = 512
MAX_QUOTE: constant(uint256) = 16384
MAX_EVENTLOG: constant(uint256) = 65536
MAX_GATEWAY: constant(uint256) = 256
MAX_REASON: constant(uint256) = 1024
# An app's answer is two words, the reason's length, and the reason.
MAX_APP_ANSWER: constant(uint256) = 96 + MAX_REASON
# What an app may burn of the gas of a call that asks about many apps. The app contract of this project needs 30,000.
APP_GAS: constant(uint256) = 1_000_000

# The ERC-5202 blueprint of the proxy that each app gets.
APP_PROXY: immutable(address)

gatewayAppId: public(String[MAX_GATEWAY])
registeredApps: public(HashMap[address, bool])
kmsAllowedAggregatedMrs: public(HashMap[bytes32, bool])
kmsAllowedDeviceIds: public(HashMap[bytes32, bool])
allowedOsImages: public(HashMap[bytes32, bool])
appImplementation: public(address)
info: KmsInfo


@deploy
def __init__(appProxyBlueprint: address):
    """
    @param appProxyBlueprint Where the blueprint of Proxy.vy is. Code that a KMS is upgraded to names its own.
    """
    upgradeable.__init__()
    APP_PROXY = appProxyBlueprint


@external
def initialize(owner: address, implementation: address):
    """
    @notice Set the owner, once, and the code of new apps unless that is zero.
    """
    upgradeable._begin_initialize()
    if owner == empty(address):
        raw_revert(abi_encode(owner, method_id=method_id("OwnableInvalidOwner(address)")))
    upgradeable._set_owner(owner)
    if implementation != empty(address):
        self._set_app_implementation(implementation)
    upgradeable._end_initialize()


# The decisions


@external
@view
def isKmsAllowed(bootInfo: boot_info.BootInfo) -> (bool, String[64]):
    """
    @notice May a guest with this boot info have the root keys? If not, the first reason against it.
    """
    if bootInfo.tcbStatus != "UpToDate":
        return False, "TCB status is not up to date"
    if not self.allowedOsImages[bootInfo.osImageHash]:
        return False, "OS image is not allowed"
    if not self.kmsAllowedAggregatedMrs[bootInfo.mrAggregated]:
        return False, "Aggregated MR not allowed"
    if not self.kmsAllowedDeviceIds[bootInfo.deviceId]:
        return False, "KMS is not allowed to boot on this device"
    return True, ""


@external
@view
def isAppAllowed(bootInfo: boot_info.BootInfo) -> (bool, String[MAX_REASON]):
    """
    @notice May a guest with this boot info have its app's keys? If not, the first reason against it; the app's own
            contract has the last word.
    @dev That contract may be anyone's. It is given a bounded amount of gas and cannot write; its error comes back as
         an error, cut to 1,120 bytes; an answer that is not exactly a boolean and a text of at most 1,024 bytes
         reverts.
    """
    if not self.registeredApps[bootInfo.appId]:
        return False, "App not registered"
    if not self.allowedOsImages[bootInfo.osImageHash]:
        return False, "OS image is not allowed"
    if not bootInfo.appId.is_contract:
        return False, "App not deployed or invalid address"
    ok: bool = False
    answer: Bytes[MAX_APP_ANSWER] = b""
    # Selector and argument of the app's function are those of this one.
    ok, answer = raw_call(
        bootInfo.appId,
        msg.data,
        max_outsize=MAX_APP_ANSWER,
        gas=APP_GAS,
        is_static_call=True,
        revert_on_failure=False,
    )
    if not ok:
        raw_revert(answer)
    allowed: bool = False
    reason: String[MAX_REASON] = ""
    allowed, reason = abi_decode(answer, (bool, String[MAX_REASON]))
    return allowed, reason


# Apps, anyone's


@external
def deployAndRegisterApp(
    owner: address,
    disableUpgrades: bool,
    requireTcbUpToDate: bool,
    allowAnyDevice: bool,
    deviceId: bytes32,
    composeHash: bytes32,
) -> address:
    """
    @notice Make an app contract with this owner and first policy, and register it.
    @return The app's id: keccak256(rlp([this contract, its nonce]))[12:].
    """
    return self._deploy(owner, disableUpgrades, requireTcbUpToDate, allowAnyDevice, deviceId, composeHash)


@external
@raw_return
def __default__() -> Bytes[32]:
    """
    @notice `deployAndRegisterApp` without `requireTcbUpToDate`, which is false then. Nothing else is answered.
    @dev Vyper has no overloads, so the second one is told by its selector here. `slice` reverts on shorter calldata.
    """
    assert slice(msg.data, 0, 4) == method_id("deployAndRegisterApp(address,bool,bool,bytes32,bytes32)")
    owner: address = empty(address)
    disable_upgrades: bool = False
    any_device: bool = False
    device: bytes32 = empty(bytes32)
    compose_hash: bytes32 = empty(bytes32)
    owner, disable_upgrades, any_device, device, compose_hash = abi_decode(
        slice(msg.data, 4, 160), (address, bool, bool, bytes32, bytes32)
    )
    return abi_encode(self._deploy(owner, disable_upgrades, False, any_device, device, compose_hash))


@external
def registerApp(appId: address):
    assert appId != empty(address), "Invalid app ID"
    self._register(appId)


@internal
@nonreentrant
def _deploy(
    owner: address,
    disable_upgrades: bool,
    require_up_to_date: bool,
    any_device: bool,
    device: bytes32,
    compose_hash: bytes32,
) -> address:
    assert self.appImplementation != empty(address), "DstackApp implementation not set"
    assert owner != empty(address), "Invalid owner address"
    initialize: Bytes[196] = abi_encode(
        owner,
        disable_upgrades,
        require_up_to_date,
        any_device,
        device,
        compose_hash,
        method_id=method_id("initialize(address,bool,bool,bool,bytes32,bytes32)"),
    )
    app: address = create_from_blueprint(APP_PROXY, self.appImplementation, initialize)
    self._register(app)
    log AppDeployedViaFactory(appId=app, deployer=msg.sender)
    return app


@internal
def _register(app: address):
    self.registeredApps[app] = True
    log AppRegistered(appId=app)
    upgradeable._log_policy(keccak256("registered-app"), upgradeable._word(app), True)


# Policy, the owner's


@external
def setAppImplementation(implementation: address):
    upgradeable._check_owner()
    assert implementation != empty(address), "Invalid implementation address"
    self._set_app_implementation(implementation)


@internal
def _set_app_implementation(implementation: address):
    self.appImplementation = implementation
    log AppImplementationSet(implementation=implementation)
    upgradeable._log_policy(keccak256("app-implementation"), upgradeable._word(implementation), True)


@external
def addOsImageHash(osImageHash: bytes32):
    self._set_os_image(osImageHash, True)


@external
def removeOsImageHash(osImageHash: bytes32):
    self._set_os_image(osImageHash, False)


@internal
def _set_os_image(os_image_hash: bytes32, allowed: bool):
    upgradeable._check_owner()
    self.allowedOsImages[os_image_hash] = allowed
    if allowed:
        log OsImageHashAdded(osImageHash=os_image_hash)
    else:
        log OsImageHashRemoved(osImageHash=os_image_hash)
    upgradeable._log_policy(keccak256("os-image"), os_image_hash, allowed)


@external
def addKmsAggregatedMr(mrAggregated: bytes32):
    self._set_aggregated_mr(mrAggregated, True)


@external
def removeKmsAggregatedMr(mrAggregated: bytes32):
    self._set_aggregated_mr(mrAggregated, False)


@internal
def _set_aggregated_mr(mr_aggregated: bytes32, allowed: bool):
    upgradeable._check_owner()
    self.kmsAllowedAggregatedMrs[mr_aggregated] = allowed
    if allowed:
        log KmsAggregatedMrAdded(mrAggregated=mr_aggregated)
    else:
        log KmsAggregatedMrRemoved(mrAggregated=mr_aggregated)
    upgradeable._log_policy(keccak256("kms-aggregated-mr"), mr_aggregated, allowed)


@external
def addKmsDevice(deviceId: bytes32):
    self._set_device(deviceId, True)


@external
def removeKmsDevice(deviceId: bytes32):
    self._set_device(deviceId, False)


@internal
def _set_device(device: bytes32, allowed: bool):
    upgradeable._check_owner()
    self.kmsAllowedDeviceIds[device] = allowed
    if allowed:
        log KmsDeviceAdded(deviceId=device)
    else:
        log KmsDeviceRemoved(deviceId=device)
    upgradeable._log_policy(keccak256("kms-device"), device, allowed)


@external
@payable
def upgradeToAndCall(newImplementation: address, data: Bytes[erc1967.MAX_CALL]):
    """
    @notice Run other code behind this proxy, and call it with `data` unless that is empty.
    """
    upgradeable._check_proxy()
    upgradeable._check_owner()
    upgradeable._upgrade_to_and_call(newImplementation, data)


# What clients need to know of the KMS


@external
def setKmsInfo(info: KmsInfo):
    """
    @notice Publish the KMS's public keys, its bootstrap quote and event log.
    """
    upgradeable._check_owner()
    self.info = info
    log KmsInfoSet(k256Pubkey=info.k256Pubkey)
    upgradeable._log_policy(keccak256("kms-info"), keccak256(info.k256Pubkey), True)


@external
def setKmsQuote(quote: Bytes[MAX_QUOTE]):
    upgradeable._check_owner()
    self.info.quote = quote


@external
def setKmsEventlog(eventlog: Bytes[MAX_EVENTLOG]):
    upgradeable._check_owner()
    self.info.eventlog = eventlog


@external
@view
def kmsInfo() -> (Bytes[MAX_KEY], Bytes[MAX_KEY], Bytes[MAX_QUOTE], Bytes[MAX_EVENTLOG]):
    return self.info.k256Pubkey, self.info.caPubkey, self.info.quote, self.info.eventlog


@external
def setGatewayAppId(appId: String[MAX_GATEWAY]):
    upgradeable._check_owner()
    self.gatewayAppId = appId
    log GatewayAppIdSet(gatewayAppId=appId)
    upgradeable._log_policy(keccak256("gateway-app-id"), keccak256(appId), True)


# What this contract is


@external
@pure
def supportsInterface(interfaceId: bytes4) -> bool:
    return interfaceId in [boot_info.APP_AUTH, boot_info.ERC165]
