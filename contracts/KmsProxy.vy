# pragma version 0.4.3
# SPDX-License-Identifier: Apache-2.0
"""
@title ERC-1967 proxy of a KMS
@notice As Proxy.vy, with room for the one long answer: `kmsInfo`, with its quote and event log.
"""

import erc1967

initializes: erc1967

# The EVM charges a call for all memory that its answer might take. What takes no argument is read, hardly ever sent:
# there the room costs nobody. A longer answer is cut off.
MAX_ANSWER: constant(uint256) = 4096
MAX_LONG_ANSWER: constant(uint256) = 98304


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
def __default__() -> Bytes[MAX_LONG_ANSWER]:
    """
    @notice Forward the call; answers and errors come back unchanged.
    """
    if len(msg.data) == 4:
        return raw_call(erc1967.implementation, msg.data, max_outsize=MAX_LONG_ANSWER, is_delegate_call=True)
    return raw_call(erc1967.implementation, msg.data, max_outsize=MAX_ANSWER, is_delegate_call=True)
