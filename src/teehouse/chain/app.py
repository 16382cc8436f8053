"""What an app's contract says: its allow-lists and settings (onchain.md 3, 6.1).

Rules:

1. A CVM is on the allow-lists when its compose hash is listed, and its device is listed or any device is
   allowed. That is the contract's list only, not what a KMS decides: image, TCB and registration are not in it.
2. Questions are answered of one block and in one round trip, however many they are; what several of them ask
   alike is asked once.
3. A contract that refuses, answers nonsense or is not there gives a verdict with an `error` and allows nothing;
   the verdicts about other contracts stand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from teehouse.base.findings import EvidenceError, misuse, rejected
from teehouse.chain import calls as abi
from teehouse.chain.reader import ADDRESS_SIZE, WORD_SIZE, Answer, Block, Call, Reader

QUESTIONS_LIMIT: Final = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AppQuestion:
    """May this compose hash run on this device, by this contract? 20, 32 and 32 bytes; a device may be None."""

    contract: bytes
    compose_hash: bytes
    device_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class AppVerdict:
    """The answer to one question. With an `error` nothing is known, and nothing allowed (rule 3)."""

    question: AppQuestion
    compose_hash_allowed: bool = False
    allow_any_device: bool = False
    device_allowed: bool | None = None  # None where no device was asked about
    error: str = ""

    @property
    def is_allowed(self) -> bool:
        """Rule 1."""
        return (
            not self.error
            and self.compose_hash_allowed
            and (self.allow_any_device or bool(self.device_allowed))
        )


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What a contract says of itself. Owners have 20 bytes; `pending_owner` is None where none is proposed."""

    owner: bytes
    pending_owner: bytes | None
    allow_any_device: bool
    require_tcb_up_to_date: bool


async def verdicts(
    reader: Reader, questions: Sequence[AppQuestion], block: Block | None = None
) -> tuple[Block, tuple[AppVerdict, ...]]:
    """The verdicts in the order of the questions (rules 1 to 3), with the block they are of.

    Raises `CollateralError` when the chain cannot be read, `MisuseError` for more than `QUESTIONS_LIMIT` questions
    or values of another size.
    """
    if len(questions) > QUESTIONS_LIMIT:
        raise misuse("chain.questions", "too many questions", expected=f"at most {QUESTIONS_LIMIT}")
    places: dict[Call, int] = {}  # rule 2

    def place(contract: bytes, data: bytes) -> int:
        return places.setdefault(Call(contract, data), len(places))

    asked = []
    for question in questions:
        _check(question)
        contract, device = question.contract, question.device_id
        asked.append(
            (
                place(contract, abi.ALLOWED_COMPOSE_HASHES(question.compose_hash)),
                place(contract, abi.ALLOW_ANY_DEVICE()),
                None if device is None else place(contract, abi.ALLOWED_DEVICE_IDS(device)),
            )
        )
    at, answers = await reader.call_many(list(places), block)
    return at, tuple(
        _verdict(question, *(None if one is None else answers[one] for one in three))
        for question, three in zip(questions, asked, strict=True)
    )


async def devices_allowed(
    reader: Reader, contract: bytes, device_ids: Sequence[bytes], block: Block | None = None
) -> tuple[Block, bool, tuple[bool, ...]]:
    """The block, whether any device is allowed, and for each device (32 bytes) whether it is listed.

    Raises `EvidenceError` when the contract refuses or answers nonsense, `CollateralError`, `MisuseError`.
    """
    wanted = [
        Call(contract, abi.ALLOW_ANY_DEVICE()),
        *(Call(contract, abi.ALLOWED_DEVICE_IDS(one)) for one in device_ids),
    ]
    at, answers = await reader.call_many(wanted, block)
    any_device, *listed = (decoded(answer, abi.decode_bool) for answer in answers)
    return at, any_device, tuple(listed)


async def settings(reader: Reader, contract: bytes, block: Block | None = None) -> tuple[Block, AppSettings]:
    """The contract's owner and settings at one block.

    Raises `EvidenceError` when it refuses or answers nonsense, `CollateralError`.
    """
    wanted = (abi.OWNER, abi.PENDING_OWNER, abi.ALLOW_ANY_DEVICE, abi.REQUIRE_TCB_UP_TO_DATE)
    at, (owner, pending, any_device, up_to_date) = await reader.call_many(
        [Call(contract, one()) for one in wanted], block
    )
    proposed = decoded(pending, abi.decode_address)
    return at, AppSettings(
        decoded(owner, abi.decode_address),
        proposed if any(proposed) else None,
        decoded(any_device, abi.decode_bool),
        decoded(up_to_date, abi.decode_bool),
    )


def decoded(answer: Answer, decode: Callable[[bytes], T]) -> T:
    """The value of an answer. Raises `EvidenceError`: a refusal with its reason, or what cannot be decoded."""
    if not answer.ok:
        raise rejected("chain.denied", "the contract refused", found=answer.reason)
    return decode(answer.data)


def _verdict(
    question: AppQuestion, compose: Answer | None, any_device: Answer | None, device: Answer | None
) -> AppVerdict:
    try:
        return AppVerdict(
            question,
            compose is not None and decoded(compose, abi.decode_bool),
            any_device is not None and decoded(any_device, abi.decode_bool),
            None if device is None else decoded(device, abi.decode_bool),
        )
    except EvidenceError as error:
        return AppVerdict(question, error=error.finding.sentence())


def _check(question: AppQuestion) -> None:
    sizes = (len(question.contract), len(question.compose_hash), len(question.device_id or bytes(WORD_SIZE)))
    if sizes != (ADDRESS_SIZE, WORD_SIZE, WORD_SIZE):
        raise misuse(
            "chain.question",
            "the sizes of contract, compose hash and device",
            expected="20, 32 and 32 bytes",
            found=", ".join(map(str, sizes)),
        )
