"""Deployments through the services: provision, commit, and what comes of it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from support.cloud_life_support import BOX, YAML, living, provision_request
from teehouse.base.findings import unavailable
from teehouse.cloud.accounts.models import Workspace
from teehouse.cloud.apps.app_ids import app_id_of
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.actions import act
from teehouse.cloud.cvms.committing import commit
from teehouse.cloud.cvms.compose import new_compose
from teehouse.cloud.cvms.models import Operation, Reservation
from teehouse.cloud.cvms.provisioning import provision
from teehouse.cloud.errors import CloudError, ErrorCode
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.revisions.models import OperationType, Revision
from teehouse.node.api import CvmPhase
from teehouse.wire.cloud.lifecycle import CommitRequest


async def test_a_deployment_boots_the_exact_bytes(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.deploy()
        cvm = await life.cvm(done.cvm_id)
        spec = life.node.specs[cvm.vm_uuid]
        compose = new_compose({"docker_compose_file": YAML, "name": ""})
        assert spec.compose == compose.body
        assert spec.encrypted_env == bytes.fromhex(BOX)
        assert (cvm.status, cvm.desired, cvm.compose_hash) == ("running", "running", compose.compose_hash)
        assert cvm.instance_id == life.node.states[cvm.vm_uuid].instance_id.hex()
        assert life.node.states[cvm.vm_uuid].correlation_id == done.correlation_id
        (operation,) = await life.rows(Operation)
        assert (operation.outcome, operation.correlation_id) == ("succeeded", done.correlation_id)
        (revision,) = await life.rows(Revision)
        assert (revision.operation_type, revision.correlation_id, revision.trace_id, revision.changed) == (
            "create",
            done.correlation_id,
            "7a" * 16,
            [],
        )
        (app,) = await life.rows(App)
        (workspace, _) = await life.rows(Workspace)
        assert app.app_id == app_id_of(life.author.workspace_id, 0, workspace.app_id_seed)
        (place,) = await life.rows(Reservation)
        assert (place.cvm_id, place.expires_at) == (done.cvm_id, None)


async def test_two_commits_of_one_provision_make_one_cvm(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        found = await provision(life.life, life.author, provision_request())
        request = CommitRequest(
            app_id=found.provision.app_id, compose_hash="0x" + found.provision.compose_hash
        )
        first, second = await asyncio.gather(
            commit(life.life, life.author, request), commit(life.life, life.author, request)
        )
        await life.idle()
        third = await commit(life.life, life.author, request)
        assert first.cvm_id == second.cvm_id == third.cvm_id
        assert sorted([first.operation_id is None, second.operation_id is None]) == [False, True]
        assert len(await life.rows(Operation)) == len(await life.rows(Reservation)) == 1


async def test_another_hash_of_a_committed_app_is_a_conflict(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.deploy()
        (app,) = await life.rows(App)
        with pytest.raises(CloudError) as caught:
            await commit(life.life, life.author, CommitRequest(app_id=app.app_id, compose_hash="00" * 32))
        assert caught.value.code is ErrorCode.CVM_APP_ID_CONFLICT
        assert (await life.cvm(done.cvm_id)).status == "running"


async def test_a_provision_is_of_its_workspace(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        found = await provision(life.life, life.author, provision_request())
        with pytest.raises(CloudError) as caught:
            await commit(
                life.life,
                life.other,
                CommitRequest(app_id=found.provision.app_id, compose_hash=found.provision.compose_hash),
            )
        assert caught.value.code is ErrorCode.HASH_INVALID_OR_EXPIRED


@pytest.mark.parametrize("name", ["abcd", "1abcd", "ab--cd", "abcd-", "ab_cd", "a" * 64, "", "my app"])
async def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    async with living(tmp_path) as life:
        with pytest.raises(CloudError) as caught:
            await provision(life.life, life.author, provision_request(name))
        assert caught.value.code is ErrorCode.INVALID_REQUEST


async def test_a_taken_name_is_refused_at_provision_and_at_commit(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        waiting = await provision(life.life, life.author, provision_request())
        await life.deploy()
        with pytest.raises(CloudError) as caught:
            await provision(life.life, life.author, provision_request())
        assert caught.value.code is ErrorCode.DUPLICATE_CVM_NAME
        request = CommitRequest(app_id=waiting.provision.app_id, compose_hash=waiting.provision.compose_hash)
        with pytest.raises(CloudError) as caught:
            await commit(life.life, life.author, request)
        assert caught.value.code is ErrorCode.DUPLICATE_CVM_NAME
        assert len(await life.rows(App)) == 1  # the second commit was undone whole


async def test_a_quota_that_is_used_up(tmp_path: Path) -> None:
    async with living(tmp_path, quota={"vm_slots": 1}) as life:
        await life.deploy()
        with pytest.raises(CloudError) as caught:
            await provision(life.life, life.author, provision_request("second"))
        assert caught.value.code is ErrorCode.QUOTA_EXCEEDED
        (node,) = await life.rows(Node)
        assert (node.used_slots, node.used_vcpu) == (1, 1)


async def test_a_boot_that_a_node_refuses_ends_in_error_and_can_be_deleted(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        create = life.node.create

        async def refuse(*args: object, **kwargs: object) -> None:
            raise CloudError(None, "not here")

        life.node.create = refuse
        done = await life.deploy()
        cvm = await life.cvm(done.cvm_id)
        assert (cvm.status, cvm.boot_error) == ("error", "not here")
        life.node.create = create
        await act(life.life, life.author, cvm.vm_uuid, OperationType.DELETE)
        await life.idle()
        cvm = await life.cvm(done.cvm_id)
        assert (cvm.status, cvm.deleted_at) == ("deleted", life.clock.now())
        assert await life.rows(Reservation) == []
        (node,) = await life.rows(Node)
        assert (node.used_slots, node.used_vcpu, node.used_memory_mb, node.used_disk_gb) == (0, 0, 0, 0)


async def test_a_node_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        start, calls = life.node.start, []

        async def late(cvm_id: str, *, correlation_id: str = "") -> object:
            calls.append(cvm_id)
            if len(calls) < 3:
                raise unavailable("node.away", "the node")
            return await start(cvm_id, correlation_id=correlation_id)

        life.node.start = late
        done = await life.deploy()
        assert (await life.cvm(done.cvm_id)).status == "running"


async def test_deleting_during_boot_wins(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        state = life.node.state

        async def booting(cvm_id: str) -> object:
            found = await state(cvm_id)
            if found.phase is CvmPhase.RUNNING:
                return replace(found, phase=CvmPhase.BOOTING, settled=False, step="kms")
            return found

        life.node.state = booting
        done = await life.begin()
        while not (await life.cvm(done.cvm_id)).boot_progress:  # noqa: ASYNC110 - another task's row
            await asyncio.sleep(0.01)
        cvm = await life.cvm(done.cvm_id)
        assert (cvm.status, cvm.boot_progress) == ("starting", "kms")
        with pytest.raises(CloudError) as caught:
            await act(life.life, life.author, "my-app", OperationType.RESTART)
        assert (caught.value.status, caught.value.code) == (409, None)
        await act(life.life, life.author, "my-app", OperationType.DELETE)
        await life.idle()
        operations = await life.rows(Operation)
        assert [one.outcome for one in operations] == ["superseded", "succeeded"]
        assert (await life.cvm(done.cvm_id)).deleted_at is not None
        assert life.node.states[cvm.vm_uuid].phase is CvmPhase.REMOVED
        assert await life.rows(Reservation) == []


async def test_the_way_down_and_up_again(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.deploy()
        seen = []
        for kind in (
            OperationType.STOP,
            OperationType.STOP,
            OperationType.START,
            OperationType.START,
            OperationType.SHUTDOWN,
            OperationType.RESTART,
        ):
            acted = await act(life.life, life.author, str(done.cvm_id), kind)
            await life.idle()
            seen.append((acted.operation_id is not None, (await life.cvm(done.cvm_id)).status))
        assert seen == [
            (True, "stopped"),
            (False, "stopped"),
            (True, "running"),
            (False, "running"),
            (True, "stopped"),
            (True, "running"),
        ]
        assert [one.operation_type for one in await life.rows(Revision)] == ["create", "restart"]
