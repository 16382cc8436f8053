# pragma version 0.4.3
# SPDX-License-Identifier: Apache-2.0
"""
@title What app and KMS have in common: one initialisation, an owner, upgrades
@notice Behaves as OpenZeppelin 5.1's Initializable, Ownable2Step and UUPSUpgradeable do, error data included.
@dev The storage layout files put the variables where those contracts have them (ERC-7201).
"""

import erc1967

initializes: erc1967


event Initialized:
    version: uint64


event OwnershipTransferStarted:
    previousOwner: indexed(address)
    newOwner: indexed(address)


event OwnershipTransferred:
    previousOwner: indexed(address)
    newOwner: indexed(address)


event PolicyChanged:
    actor: indexed(address)
    policy: indexed(bytes32)
    value: indexed(bytes32)
    enabled: bool


UPGRADE_INTERFACE_VERSION: public(constant(String[5])) = "5.0.0"
IMPLEMENTATION_SLOT: constant(bytes32) = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc

# Where this code itself lives: behind a proxy `self` is the proxy, and this stays the implementation.
THIS: immutable(address)

initialized: uint64
owner: public(address)
pendingOwner: public(address)


@deploy
def __init__():
    """
    @dev An implementation is nobody's: it can never be initialised itself.
    """
    THIS = self
    self.initialized = max_value(uint64)
    log Initialized(version=max_value(uint64))


# Initialisation


@internal
def _begin_initialize():
    if self.initialized != 0:
        raw_revert(method_id("InvalidInitialization()"))
    self.initialized = 1


@internal
def _end_initialize():
    log Initialized(version=1)


# Ownership


@internal
@view
def _check_owner():
    if msg.sender != self.owner:
        self._revert_unauthorized()


@internal
@view
def _revert_unauthorized():
    raw_revert(abi_encode(msg.sender, method_id=method_id("OwnableUnauthorizedAccount(address)")))


@internal
def _set_owner(new: address):
    previous: address = self.owner
    self.pendingOwner = empty(address)
    self.owner = new
    log OwnershipTransferred(previousOwner=previous, newOwner=new)


@external
def transferOwnership(newOwner: address):
    """
    @notice Offer ownership; nothing changes until the new owner accepts. The zero address takes an offer back.
    """
    self._check_owner()
    self.pendingOwner = newOwner
    log OwnershipTransferStarted(previousOwner=self.owner, newOwner=newOwner)


@external
def acceptOwnership():
    """
    @notice Become owner; for the one it was offered to.
    """
    if msg.sender != self.pendingOwner:
        self._revert_unauthorized()
    self._set_owner(msg.sender)


@external
def renounceOwnership():
    """
    @notice Leave the contract without owner, for ever: no policy can be changed and no upgrade be made after this.
    """
    self._check_owner()
    self._set_owner(empty(address))


# Policy


@internal
def _log_policy(policy: bytes32, subject: bytes32, enabled: bool):
    log PolicyChanged(actor=msg.sender, policy=policy, value=subject, enabled=enabled)


@internal
@pure
def _word(account: address) -> bytes32:
    return convert(convert(account, uint256), bytes32)


# Upgrades


@internal
@view
def _check_proxy():
    # False of the implementation itself too: its own slot stays empty.
    if erc1967.implementation != THIS:
        raw_revert(method_id("UUPSUnauthorizedCallContext()"))


@internal
@payable
def _upgrade_to_and_call(new: address, data: Bytes[erc1967.MAX_CALL]):
    """
    @dev After the caller has been checked: refuse what could not be upgraded again, then upgrade.
    """
    self._log_policy(keccak256("implementation-upgrade"), self._word(new), True)
    ok: bool = False
    answer: Bytes[32] = b""
    ok, answer = raw_call(
        new, method_id("proxiableUUID()"), max_outsize=32, is_static_call=True, revert_on_failure=False
    )
    if not ok or len(answer) != 32:
        raw_revert(abi_encode(new, method_id=method_id("ERC1967InvalidImplementation(address)")))
    slot: bytes32 = convert(answer, bytes32)
    if slot != IMPLEMENTATION_SLOT:
        raw_revert(abi_encode(slot, method_id=method_id("UUPSUnsupportedProxiableUUID(bytes32)")))
    erc1967._upgrade_to_and_call(new, data)


@external
@view
def proxiableUUID() -> bytes32:
    """
    @notice The storage slot that this implementation expects its address in; not to be asked through a proxy.
    """
    if self != THIS:
        raw_revert(method_id("UUPSUnauthorizedCallContext()"))
    return IMPLEMENTATION_SLOT
