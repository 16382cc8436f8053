"""What a node keeps on disk (`node.store` S1 to S5), and the bounds of what it is given (`node.api`)."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import teehouse.node.store as store_module
from support.node_support import MEMORY, NOW, SEALING_KEY, compose_file, cvm_spec
from teehouse.base.clock import FixedClock
from teehouse.base.findings import CollateralError, Finding, MisuseError, Outcome
from teehouse.node.api import TRANSITIONS, CvmPhase, CvmSpec, check_correlation_id, check_deadline
from teehouse.node.history import History
from teehouse.node.journal import Journal
from teehouse.node.store import CvmRecord, NodeStore
from teehouse.node.usage import ProcessTable, Usage, disk_usage

CVM_ID = "5" * 32
ERROR = Finding("node.stop", "a subject", Outcome.REJECTED, "that", "this", "do", "workload.stop")

records = st.builds(
    CvmRecord,
    cvm_id=st.just(CVM_ID),
    app_id=st.binary(min_size=20, max_size=20),
    instance_seed=st.binary(min_size=20, max_size=20),
    phase=st.sampled_from(CvmPhase),
    wanted=st.sampled_from(CvmPhase),
    pending=st.booleans(),
    fresh=st.booleans(),
    deadline=st.floats(0, 3600),
    step=st.text(max_size=20),
    error=st.sampled_from([None, ERROR]),
    instance_id=st.binary(max_size=20),
    boot_count=st.integers(0, 2**40),
    touched=st.booleans(),
    interrupted=st.integers(0, 3),
    started_at=st.sampled_from([None, NOW, datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)]),
    pages_port=st.integers(0, 65535),
    host_boot=st.text(max_size=40),
    correlation_id=st.text(max_size=20),
    sealed_keys=st.binary(max_size=60),
)


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    opened = NodeStore(tmp_path / "node", sealing_key=SEALING_KEY)
    opened.open()
    return opened


def record(**members: object) -> CvmRecord:
    return replace(CvmRecord(CVM_ID, b"\x01" * 20, b"\x02" * 20), **members)  # type: ignore[arg-type]  # by name


@given(kept=records)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_saved_is_loaded(store: NodeStore, kept: CvmRecord) -> None:
    spec = cvm_spec(cvm_id=CVM_ID, encrypted_env=b"\x00\xff", user_config="é\n", kms_urls=("https://a",))
    store.cvm_directory(CVM_ID).mkdir(exist_ok=True)
    store.save_spec(spec)
    store.save(kept)
    assert list(store.load()) == [(spec, kept)]


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """S5."""
    opened = NodeStore(tmp_path / "node")
    opened.open()
    opened.create(cvm_spec(cvm_id=CVM_ID), record())
    opened.close()
    opened.close()
    modes = {
        path.relative_to(tmp_path).as_posix(): oct(stat.S_IMODE(path.stat().st_mode))
        for path in (tmp_path / "node").rglob("*")
    }
    assert modes == {
        "node/node.lock": "0o600",
        "node/sealing.key": "0o600",
        "node/cvms": "0o700",
        f"node/cvms/{CVM_ID}": "0o700",
        f"node/cvms/{CVM_ID}/spec.json": "0o600",
        f"node/cvms/{CVM_ID}/state.json": "0o600",
        "node/removed": "0o700",
    }


def test_keys_are_sealed_for_one_cvm_and_one_boot(store: NodeStore) -> None:
    """S3."""
    sealed = store.seal(record(boot_count=3), b"the keys")
    assert b"the keys" not in sealed.sealed_keys
    assert store.unseal(sealed) == b"the keys"
    assert "sealed_keys" not in repr(sealed)
    for other in (replace(sealed, boot_count=4), replace(sealed, cvm_id="6" * 32)):
        with pytest.raises(MisuseError) as raised:
            store.unseal(other)
        assert raised.value.finding.code == "sealing.shut"
    assert store.seal(record(boot_count=3), b"the keys") != sealed  # a nonce of its own


def test_the_stored_sealing_key_stays_and_is_guarded(tmp_path: Path) -> None:
    directory = tmp_path / "node"
    opened = NodeStore(directory)
    with pytest.raises(MisuseError) as raised:
        opened.seal(record(), b"x")
    assert raised.value.finding.code == "node.closed"
    opened.open()
    sealed = opened.seal(record(), b"x")
    opened.close()
    again = NodeStore(directory)
    again.open()
    assert again.unseal(sealed) == b"x"
    again.close()
    key = directory / "sealing.key"
    for mode, content in ((0o640, key.read_bytes()), (0o600, b"short")):
        key.chmod(mode)
        key.write_bytes(content)
        with pytest.raises(MisuseError) as raised:
            NodeStore(directory).open()
        assert raised.value.finding.code == "node.sealing-key"
    key.unlink()
    another = NodeStore(directory)
    another.open()  # with a new one; and the lock was let go of
    with pytest.raises(MisuseError):
        another.unseal(sealed)


def test_what_crashes_left_is_cleared(store: NodeStore) -> None:
    """S2."""
    store.create(cvm_spec(cvm_id=CVM_ID), record())
    half = store.cvm_directory("7" * 32)
    half.mkdir()
    (half / "spec.json").write_text("{}")
    store.close()
    store.open()
    assert not half.exists()
    assert [spec.cvm_id for spec, _ in store.load()] == [CVM_ID]


def test_removed_ids_are_remembered_up_to_a_limit(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"{number:032x}" for number in range(4)]
    for age, cvm_id in enumerate(ids):
        store.create(cvm_spec(cvm_id=cvm_id), replace(record(), cvm_id=cvm_id))
        store.remove(cvm_id)
        os.utime(store.directory / "removed" / cvm_id, (age, age))
        assert not store.cvm_directory(cvm_id).exists()
    monkeypatch.setattr(store_module, "REMOVED_LIMIT", 2)
    store.close()
    store.open()
    assert [store.was_removed(cvm_id) for cvm_id in ids] == [False, False, True, True]


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CollateralError) as raised:
        NodeStore(tmp_path / "file").open()
    assert raised.value.finding.code == "node.disk"
    (tmp_path / "node" / "node.lock").mkdir(parents=True)
    with pytest.raises(CollateralError) as raised:
        NodeStore(tmp_path / "node").open()
    assert raised.value.finding.found == "Is a directory"


@pytest.mark.parametrize("before", CvmPhase)
@pytest.mark.parametrize("after", CvmPhase)
async def test_the_journal_knows_no_other_transitions(
    store: NodeStore, before: CvmPhase, after: CvmPhase
) -> None:
    store.create(cvm_spec(cvm_id=CVM_ID), record(phase=before))
    journal = Journal(store, History(FixedClock(NOW)), record(phase=before))

    def change(known: CvmRecord) -> CvmRecord:
        return replace(known, phase=after)

    if after is before or after in TRANSITIONS[before]:
        assert await journal.change(change, strict=True)
        assert [kept.phase for _, kept in store.load()] == [after]
        return
    with pytest.raises(MisuseError) as raised:
        await journal.change(change, strict=True)
    assert raised.value.finding.code == "node.transition"
    assert journal.record.phase is before


@pytest.mark.parametrize(
    "members",
    [
        {"cvm_id": "x"},
        {"cvm_id": "A" * 32},
        {"name": ""},
        {"name": "x" * 129},
        {"name": "a\nb"},
        {"compose": b""},
        {"compose": b"x" * (4 * 1024**2 + 1)},
        {"encrypted_env": b"x" * (1024**2 + 1)},
        {"user_config": "é" * (1024**2 // 2 + 1)},
        {"app_id": b"\x01" * 19},
        {"app_id": b""},
        {"cpu_count": 0},
        {"cpu_count": 1025},
        {"memory_size": 1024**2 - 1},
        {"memory_size": 16 * 1024**4 + 1},
        {"disk_size": -1},
        {"disk_size": 1024**5 + 1},
        {"image": "x" * 129},
        {"kms_urls": ("",)},
        {"kms_urls": ("x" * 2049,)},
        {"kms_urls": ("x",) * 17},
    ],
    ids=lambda members: next(iter(members)),
)
def test_specs_are_bounded(members: dict[str, object]) -> None:
    given_members = {"cvm_id": CVM_ID, "name": "x", "compose": compose_file(), "memory_size": MEMORY}
    CvmSpec(**given_members)  # type: ignore[arg-type]  # by name
    with pytest.raises(MisuseError) as raised:
        CvmSpec(**{**given_members, **members})  # type: ignore[arg-type]  # by name
    assert raised.value.finding.code in {"node.spec", "workload.cvm-id"}


def test_what_is_secret_in_a_spec_is_not_shown() -> None:
    shown = repr(cvm_spec(user_config="tok", encrypted_env=b"box"))
    assert "tok" not in shown
    assert "box" not in shown


def test_deadlines_and_correlation_ids() -> None:
    assert (check_deadline(0), check_deadline(3600), check_correlation_id("a.b:c/d-e_1")) == (
        0,
        3600,
        "a.b:c/d-e_1",
    )
    refused: list[Callable[[], object]] = [
        lambda: check_deadline(3600.1),
        lambda: check_correlation_id("a\n"),
    ]
    for refuse in refused:
        with pytest.raises(MisuseError):
            refuse()


# /proc


def process(proc: Path, pid: str, job: str | None, *, utime: int = 0, pages: int = 0) -> None:
    entry = proc / pid
    entry.mkdir()
    environment = b"A=1\0" if job is None else b"A=1\0TEEHOUSE_JOB=" + job.encode() + b"\0"
    (entry / "environ").write_bytes(environment)
    fields = ["S", *["0"] * 10, str(utime), "100", *["0"] * 8, str(pages), "0"]
    (entry / "stat").write_text(f"{pid} (a) b) {' '.join(fields)}")


async def test_usage_is_summed_for_one_directory(tmp_path: Path) -> None:
    """Usage 1 and 2: other CVMs', other users' and vanished processes do not count; one look serves for a second."""
    proc = tmp_path / "proc"
    proc.mkdir()
    process(proc, "10", "/n/cvms/a/workload/app", utime=200, pages=3)
    process(proc, "11", "/n/cvms/a/workload/pre-launch", utime=50, pages=4)
    process(proc, "12", "/n/cvms/ab/workload/app")
    process(proc, "13", None)
    (proc / "14").mkdir()
    process(proc, "15", "/n/cvms/a/workload/app")
    (proc / "15" / "stat").write_text("15 (x) S")
    (proc / "self").mkdir()
    now = [0.0]
    table = ProcessTable(lambda: now[0], proc)
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    expected = Usage(2, 450 / ticks, 7 * page)
    assert await table.usage(Path("/n/cvms/a")) == expected
    assert await table.usage(Path("/n/cvms/c")) is None
    process(proc, "16", "/n/cvms/a/workload/app")
    assert await table.usage(Path("/n/cvms/a")) == expected
    now[0] = 1.5
    assert (await table.usage(Path("/n/cvms/a")) or expected).processes == 3


def test_disk_usage_counts_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 10_000)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert 10_000 <= disk_usage(tmp_path) <= 100_000
    assert disk_usage(tmp_path / "nowhere") == 0
