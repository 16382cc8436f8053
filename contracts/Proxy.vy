# pragma version 0.4.3
# SPDX-License-Identifier: Apache-2.0
"""
@title ERC-1967 proxy of an app
@notice Every call runs the implementation's code on this contract's storage. The proxy itself has no function and
        no owner: an upgrade is the implementation's business (upgradeable.vy).
"""

import erc1967

initializes: erc1967

# The EVM charges a call for all memory that its answer might take. A longer answer is cut off.
MAX_ANSWER: constant(uint256) = 4096


@deploy
@payable
def __init__(implementation: address, data: Bytes[erc1967.MAX_CALL]):
    """
    @notice Stand before `implementation` and call it with `data`, its initialiser.
    """
    erc1967._upgrade_to_and_call(implementation, data)


@external
@payable
@raw_return
def __default__() -> Bytes[MAX_ANSWER]:
    """
    @notice Forward the call; answers and errors come back unchanged.
    """
    return raw_call(erc1967.implementation, msg.data, max_outsize=MAX_ANSWER, is_delegate_call=True)
