# pragma version 0.4.3
# SPDX-License-Identifier: Apache-2.0
"""
@title Many calls in one, after Multicall3
@notice For reading: many answers of one block in one round trip. It owns nothing and must be given nothing.
@dev Of Multicall3's functions these are what clients use to read; the bounds below are this contract's own.
"""

struct Call3:
    target: address
    allowFailure: bool
    callData: Bytes[MAX_CALL]


struct Result:
    success: bool
    returnData: Bytes[MAX_ANSWER]


MAX_CALLS: constant(uint256) = 128
MAX_CALL: constant(uint256) = 2048  # bytes
MAX_ANSWER: constant(uint256) = 1280  # bytes, and one less is the longest that is given


@external
@payable
def aggregate3(calls: DynArray[Call3, MAX_CALLS]) -> DynArray[Result, MAX_CALLS]:
    """
    @notice Make all calls in their order. One that fails fails them all, unless its `allowFailure` is set: then its
            error stands in its result. An answer that is too long counts as a failure without data.
    """
    results: DynArray[Result, MAX_CALLS] = []
    for call: Call3 in calls:
        success: bool = False
        answer: Bytes[MAX_ANSWER] = b""
        success, answer = raw_call(
            call.target, call.callData, max_outsize=MAX_ANSWER, revert_on_failure=False
        )
        if len(answer) == MAX_ANSWER:  # it may have been cut off
            success = False
            answer = b""
        assert success or call.allowFailure, "Multicall3: call failed"
        results.append(Result(success=success, returnData=answer))
    return results


@external
@view
def getBlockNumber() -> uint256:
    return block.number


@external
@view
def getBlockHash(blockNumber: uint256) -> bytes32:
    return blockhash(blockNumber)


@external
@view
def getLastBlockHash() -> bytes32:
    return block.prevhash


@external
@view
def getCurrentBlockTimestamp() -> uint256:
    return block.timestamp


@external
@view
def getCurrentBlockGasLimit() -> uint256:
    return block.gaslimit


@external
@view
def getBasefee() -> uint256:
    return block.basefee


@external
@view
def getChainId() -> uint256:
    return chain.id


@external
@view
def getEthBalance(account: address) -> uint256:
    return account.balance
