# pragma version 0.4.3
# SPDX-License-Identifier: Apache-2.0
"""
@title The implementation slot of ERC-1967, and how a proxy comes to another implementation
@dev The storage layout files put `implementation` at keccak256("eip1967.proxy.implementation") - 1.
     Error data are those of OpenZeppelin 5.1.
"""

event Upgraded:
    implementation: indexed(address)


# The longest call that may go along with an upgrade, and the longest error that is passed on; in bytes.
MAX_CALL: constant(uint256) = 4096
MAX_ERROR: constant(uint256) = 4096

implementation: address


@internal
@payable
def _upgrade_to_and_call(new: address, data: Bytes[MAX_CALL]):
    """
    @dev Run `new` behind this proxy from now on, and call it with `data` unless that is empty.
    """
    if not new.is_contract:
        raw_revert(abi_encode(new, method_id=method_id("ERC1967InvalidImplementation(address)")))
    self.implementation = new
    log Upgraded(implementation=new)
    if len(data) == 0:
        if msg.value != 0:
            raw_revert(method_id("ERC1967NonPayable()"))
        return
    ok: bool = False
    answer: Bytes[MAX_ERROR] = b""
    ok, answer = raw_call(new, data, max_outsize=MAX_ERROR, is_delegate_call=True, revert_on_failure=False)
    if not ok:
        if len(answer) == 0:
            raw_revert(method_id("FailedCall()"))
        raw_revert(answer)
