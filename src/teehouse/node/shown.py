"""What is told of a CVM: its record, and what its boot has made so far, as a `CvmState`."""

from teehouse.node.agents import DSTACK, EXTERNAL, TAPPD
from teehouse.node.api import CvmEndpoints, CvmPhase, CvmSpec, CvmState
from teehouse.node.boot import Boot
from teehouse.node.store import CvmRecord
from teehouse.node.workload import ContainerState


def shown_state(
    spec: CvmSpec,
    record: CvmRecord,
    boot: Boot | None,
    *,
    step: str,
    compose_hash: bytes,
    emulated: bool,
    containers: tuple[ContainerState, ...],
) -> CvmState:
    """The state. Start, endpoints and containers are those of a CVM that runs, or is being stopped."""
    running = record.phase in {CvmPhase.RUNNING, CvmPhase.STOPPING}
    return CvmState(
        cvm_id=record.cvm_id,
        name=spec.name,
        phase=record.phase,
        step=step,
        error=record.error,
        app_id=record.app_id,
        instance_id=record.instance_id,
        compose_hash=compose_hash,
        boot_count=record.boot_count,
        started_at=record.started_at if running else None,
        endpoints=_endpoints(boot) if running else None,
        containers=containers if running else (),
        emulated=emulated,
        correlation_id=record.correlation_id,
        wanted=record.wanted,
        settled=not record.pending,
    )


def _endpoints(boot: Boot | None) -> CvmEndpoints | None:
    if boot is None or boot.agent is None:
        return None
    directory = boot.plan.place.directory
    return CvmEndpoints(
        directory, directory / DSTACK, directory / TAPPD, directory / EXTERNAL, boot.pages_url
    )
