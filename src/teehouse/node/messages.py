"""The records of `node.api` as messages of the node's RPC, and back (docs/operations/node-rpc.md).

Rules:

1. Reading what was written gives the same record. Instants and spans count whole microseconds; text that is no
   Unicode, which a host's file names can be, comes back with `?` in its place.
2. What a node answers is read strictly: an unknown word, an instant that no calendar has, a missing record are an
   `EvidenceError` with code `node.answer`, and nothing else is raised for any message.
3. What a controller asks is judged by the records themselves, whose `MisuseError` it gets.
"""

from pathlib import Path
from typing import cast, get_args

from teehouse.node.api import (
    CvmEndpoints,
    CvmPhase,
    CvmSpec,
    CvmState,
    CvmStats,
    EventKind,
    NodeEvent,
    NodeImage,
    NodeInfo,
    Resources,
)
from teehouse.node.members import (
    Misfit,
    as_text,
    instant,
    instant_micros,
    span_micros,
    span_seconds,
    strict,
    word,
)
from teehouse.node.refusals import FINDING_LIMIT, finding_message, read_finding
from teehouse.node.workload import ContainerState, ContainerStatus, PublishedPort
from teehouse.wire import node_pb2

_PROTOCOLS = ("tcp", "udp")


# CvmSpec


def spec_message(spec: CvmSpec) -> node_pb2.CvmSpec:
    """A spec as a request."""
    return node_pb2.CvmSpec(
        cvm_id=spec.cvm_id,
        name=spec.name,
        compose=spec.compose,
        encrypted_env=spec.encrypted_env,
        user_config=spec.user_config,
        app_id=spec.app_id,
        cpu_count=spec.cpu_count,
        memory_size=spec.memory_size,
        disk_size=spec.disk_size,
        image=as_text(spec.image),
        kms_urls=map(as_text, spec.kms_urls),
    )


def read_spec(message: node_pb2.CvmSpec) -> CvmSpec:
    """The spec of a request. Raises `MisuseError` (rule 3)."""
    return CvmSpec(
        cvm_id=message.cvm_id,
        name=message.name,
        compose=message.compose,
        encrypted_env=message.encrypted_env,
        user_config=message.user_config,
        app_id=message.app_id if message.HasField("app_id") else None,
        cpu_count=message.cpu_count,
        memory_size=message.memory_size,
        disk_size=message.disk_size,
        image=message.image,
        kms_urls=tuple(message.kms_urls),
    )


# States


def state_message(state: CvmState) -> node_pb2.CvmState:
    """A state as an answer."""
    message = node_pb2.CvmState(
        cvm_id=as_text(state.cvm_id),
        name=as_text(state.name),
        phase=state.phase.value,
        step=as_text(state.step),
        app_id=state.app_id,
        instance_id=state.instance_id,
        compose_hash=state.compose_hash,
        boot_count=state.boot_count,
        started_at_us=None if state.started_at is None else instant_micros(state.started_at),
        containers=map(_container_message, state.containers),
        emulated=state.emulated,
        correlation_id=as_text(state.correlation_id),
        wanted=state.wanted.value,
        settled=state.settled,
    )
    if state.error is not None:
        message.error.CopyFrom(finding_message(state.error))
    if state.endpoints is not None:
        message.endpoints.CopyFrom(_endpoints_message(state.endpoints))
    return message


@strict
def read_state(message: node_pb2.CvmState) -> CvmState:
    """The state of an answer. Raises `EvidenceError` (rule 2)."""
    return CvmState(
        cvm_id=message.cvm_id,
        name=message.name,
        phase=word(CvmPhase, message.phase),
        step=message.step,
        error=read_finding(message.error) if message.HasField("error") else None,
        app_id=message.app_id,
        instance_id=message.instance_id,
        compose_hash=message.compose_hash,
        boot_count=message.boot_count,
        started_at=instant(message.started_at_us) if message.HasField("started_at_us") else None,
        endpoints=_endpoints(message.endpoints) if message.HasField("endpoints") else None,
        containers=tuple(map(_container, message.containers)),
        emulated=message.emulated,
        correlation_id=message.correlation_id,
        wanted=word(CvmPhase, message.wanted),
        settled=message.settled,
    )


def _endpoints_message(endpoints: CvmEndpoints) -> node_pb2.CvmEndpoints:
    return node_pb2.CvmEndpoints(
        directory=as_text(str(endpoints.directory)),
        dstack=as_text(str(endpoints.dstack)),
        tappd=as_text(str(endpoints.tappd)),
        external=as_text(str(endpoints.external)),
        pages_url=as_text(endpoints.pages_url),
    )


def _endpoints(message: node_pb2.CvmEndpoints) -> CvmEndpoints:
    return CvmEndpoints(
        directory=Path(message.directory),
        dstack=Path(message.dstack),
        tappd=Path(message.tappd),
        external=Path(message.external),
        pages_url=message.pages_url,
    )


def _container_message(container: ContainerState) -> node_pb2.Container:
    return node_pb2.Container(
        name=as_text(container.name),
        image=as_text(container.image),
        state=container.state,
        status=as_text(container.status),
        exit_code=container.exit_code,
        container_id=as_text(container.container_id),
        service=as_text(container.service),
        command=as_text(container.command),
        created=container.created,
        ports=[
            node_pb2.PublishedPort(
                address=as_text(port.address),
                port=port.port,
                container_port=port.container_port,
                protocol=port.protocol,
                wanted=port.wanted,
            )
            for port in container.ports
        ],
    )


def _container(message: node_pb2.Container) -> ContainerState:
    if message.state not in get_args(ContainerStatus):
        raise Misfit(f"a container that is {message.state[:64]!a}")
    return ContainerState(
        name=message.name,
        image=message.image,
        state=cast("ContainerStatus", message.state),
        status=message.status,
        exit_code=message.exit_code if message.HasField("exit_code") else None,
        container_id=message.container_id,
        service=message.service,
        command=message.command,
        created=message.created,
        ports=tuple(map(_port, message.ports)),
    )


def _port(message: node_pb2.PublishedPort) -> PublishedPort:
    if message.protocol not in _PROTOCOLS:
        raise Misfit(f"a port of {message.protocol[:64]!a}")
    return PublishedPort(
        address=message.address,
        port=message.port,
        container_port=message.container_port,
        protocol="udp" if message.protocol == "udp" else "tcp",
        wanted=message.wanted if message.HasField("wanted") else None,
    )


# Stats, the node itself, events


def stats_message(stats: CvmStats) -> node_pb2.CvmStats:
    """Stats as an answer."""
    return node_pb2.CvmStats(
        cvm_id=as_text(stats.cvm_id),
        time_us=instant_micros(stats.time),
        processes=stats.processes,
        cpu_us=None if stats.cpu_seconds is None else span_micros(stats.cpu_seconds),
        memory_bytes=stats.memory_bytes,
        disk_bytes=stats.disk_bytes,
    )


@strict
def read_stats(message: node_pb2.CvmStats) -> CvmStats:
    """The stats of an answer. Raises `EvidenceError` (rule 2)."""
    return CvmStats(
        cvm_id=message.cvm_id,
        time=instant(message.time_us),
        processes=message.processes if message.HasField("processes") else None,
        cpu_seconds=span_seconds(message.cpu_us) if message.HasField("cpu_us") else None,
        memory_bytes=message.memory_bytes if message.HasField("memory_bytes") else None,
        disk_bytes=message.disk_bytes if message.HasField("disk_bytes") else None,
    )


def info_message(info: NodeInfo) -> node_pb2.NodeInfo:
    """What a node is, as an answer."""
    return node_pb2.NodeInfo(
        name=as_text(info.name),
        version=as_text(info.version),
        emulated=info.emulated,
        root=as_text(info.root),
        device_id=info.device_id,
        capacity=_resources_message(info.capacity),
        free=_resources_message(info.free),
        images=[
            node_pb2.NodeImage(
                name=as_text(image.name), version=as_text(image.version), os_image_hash=image.os_image_hash
            )
            for image in info.images
        ],
        cvm_count=info.cvm_count,
        running_count=info.running_count,
        kms_urls=map(as_text, info.kms_urls),
        incarnation=info.incarnation,
    )


def read_info(message: node_pb2.NodeInfo) -> NodeInfo:
    """What a node is, of an answer; every message is one."""
    return NodeInfo(
        name=message.name,
        version=message.version,
        emulated=message.emulated,
        root=message.root,
        device_id=message.device_id,
        capacity=_resources(message.capacity),
        free=_resources(message.free),
        images=tuple(NodeImage(image.name, image.version, image.os_image_hash) for image in message.images),
        cvm_count=message.cvm_count,
        running_count=message.running_count,
        kms_urls=tuple(message.kms_urls),
        incarnation=message.incarnation,
    )


def _resources_message(resources: Resources) -> node_pb2.Resources:
    return node_pb2.Resources(
        cpu_count=resources.cpu_count, memory_size=resources.memory_size, disk_size=resources.disk_size
    )


def _resources(message: node_pb2.Resources) -> Resources:
    return Resources(message.cpu_count, message.memory_size, message.disk_size)


def event_message(event: NodeEvent) -> node_pb2.NodeEvent:
    """An event as a line of the stream, still to be encoded."""
    return node_pb2.NodeEvent(
        sequence=event.sequence,
        time_us=instant_micros(event.time),
        cvm_id=as_text(event.cvm_id),
        kind=event.kind.value,
        detail=as_text(event.detail)[:FINDING_LIMIT],
        correlation_id=as_text(event.correlation_id),
    )


@strict
def read_event(message: node_pb2.NodeEvent) -> NodeEvent:
    """The event of a line. Raises `EvidenceError` (rule 2)."""
    return NodeEvent(
        sequence=message.sequence,
        time=instant(message.time_us),
        cvm_id=message.cvm_id,
        kind=word(EventKind, message.kind),
        detail=message.detail,
        correlation_id=message.correlation_id,
    )
