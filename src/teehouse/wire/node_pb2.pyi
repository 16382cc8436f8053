# mypy: ignore-errors
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CvmRequest(_message.Message):
    __slots__ = ("cvm_id",)
    CVM_ID_FIELD_NUMBER: _ClassVar[int]
    cvm_id: str
    def __init__(self, cvm_id: _Optional[str] = ...) -> None: ...

class EndRequest(_message.Message):
    __slots__ = ("cvm_id", "deadline_us")
    CVM_ID_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_US_FIELD_NUMBER: _ClassVar[int]
    cvm_id: str
    deadline_us: int
    def __init__(self, cvm_id: _Optional[str] = ..., deadline_us: _Optional[int] = ...) -> None: ...

class CvmSpec(_message.Message):
    __slots__ = ("cvm_id", "name", "compose", "encrypted_env", "user_config", "app_id", "cpu_count", "memory_size", "disk_size", "image", "kms_urls")
    CVM_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMPOSE_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_ENV_FIELD_NUMBER: _ClassVar[int]
    USER_CONFIG_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    CPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_SIZE_FIELD_NUMBER: _ClassVar[int]
    DISK_SIZE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    KMS_URLS_FIELD_NUMBER: _ClassVar[int]
    cvm_id: str
    name: str
    compose: bytes
    encrypted_env: bytes
    user_config: str
    app_id: bytes
    cpu_count: int
    memory_size: int
    disk_size: int
    image: str
    kms_urls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cvm_id: _Optional[str] = ..., name: _Optional[str] = ..., compose: _Optional[bytes] = ..., encrypted_env: _Optional[bytes] = ..., user_config: _Optional[str] = ..., app_id: _Optional[bytes] = ..., cpu_count: _Optional[int] = ..., memory_size: _Optional[int] = ..., disk_size: _Optional[int] = ..., image: _Optional[str] = ..., kms_urls: _Optional[_Iterable[str]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("check", "code", "outcome", "subject", "expected", "found", "remedy")
    CHECK_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    check: str
    code: str
    outcome: str
    subject: str
    expected: str
    found: str
    remedy: str
    def __init__(self, check: _Optional[str] = ..., code: _Optional[str] = ..., outcome: _Optional[str] = ..., subject: _Optional[str] = ..., expected: _Optional[str] = ..., found: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("error", "kind", "findings")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    error: str
    kind: str
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    def __init__(self, error: _Optional[str] = ..., kind: _Optional[str] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class PublishedPort(_message.Message):
    __slots__ = ("address", "port", "container_port", "protocol", "wanted")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    address: str
    port: int
    container_port: int
    protocol: str
    wanted: int
    def __init__(self, address: _Optional[str] = ..., port: _Optional[int] = ..., container_port: _Optional[int] = ..., protocol: _Optional[str] = ..., wanted: _Optional[int] = ...) -> None: ...

class Container(_message.Message):
    __slots__ = ("name", "image", "state", "status", "exit_code", "container_id", "service", "command", "created", "ports")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    image: str
    state: str
    status: str
    exit_code: int
    container_id: str
    service: str
    command: str
    created: int
    ports: _containers.RepeatedCompositeFieldContainer[PublishedPort]
    def __init__(self, name: _Optional[str] = ..., image: _Optional[str] = ..., state: _Optional[str] = ..., status: _Optional[str] = ..., exit_code: _Optional[int] = ..., container_id: _Optional[str] = ..., service: _Optional[str] = ..., command: _Optional[str] = ..., created: _Optional[int] = ..., ports: _Optional[_Iterable[_Union[PublishedPort, _Mapping]]] = ...) -> None: ...

class CvmEndpoints(_message.Message):
    __slots__ = ("directory", "dstack", "tappd", "external", "pages_url")
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    DSTACK_FIELD_NUMBER: _ClassVar[int]
    TAPPD_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    PAGES_URL_FIELD_NUMBER: _ClassVar[int]
    directory: str
    dstack: str
    tappd: str
    external: str
    pages_url: str
    def __init__(self, directory: _Optional[str] = ..., dstack: _Optional[str] = ..., tappd: _Optional[str] = ..., external: _Optional[str] = ..., pages_url: _Optional[str] = ...) -> None: ...

class CvmState(_message.Message):
    __slots__ = ("cvm_id", "name", "phase", "step", "error", "app_id", "instance_id", "compose_hash", "boot_count", "started_at_us", "endpoints", "containers", "emulated", "correlation_id", "wanted", "settled")
    CVM_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    COMPOSE_HASH_FIELD_NUMBER: _ClassVar[int]
    BOOT_COUNT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_US_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    EMULATED_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    cvm_id: str
    name: str
    phase: str
    step: str
    error: Finding
    app_id: bytes
    instance_id: bytes
    compose_hash: bytes
    boot_count: int
    started_at_us: int
    endpoints: CvmEndpoints
    containers: _containers.RepeatedCompositeFieldContainer[Container]
    emulated: bool
    correlation_id: str
    wanted: str
    settled: bool
    def __init__(self, cvm_id: _Optional[str] = ..., name: _Optional[str] = ..., phase: _Optional[str] = ..., step: _Optional[str] = ..., error: _Optional[_Union[Finding, _Mapping]] = ..., app_id: _Optional[bytes] = ..., instance_id: _Optional[bytes] = ..., compose_hash: _Optional[bytes] = ..., boot_count: _Optional[int] = ..., started_at_us: _Optional[int] = ..., endpoints: _Optional[_Union[CvmEndpoints, _Mapping]] = ..., containers: _Optional[_Iterable[_Union[Container, _Mapping]]] = ..., emulated: _Optional[bool] = ..., correlation_id: _Optional[str] = ..., wanted: _Optional[str] = ..., settled: _Optional[bool] = ...) -> None: ...

class CvmList(_message.Message):
    __slots__ = ("cvms",)
    CVMS_FIELD_NUMBER: _ClassVar[int]
    cvms: _containers.RepeatedCompositeFieldContainer[CvmState]
    def __init__(self, cvms: _Optional[_Iterable[_Union[CvmState, _Mapping]]] = ...) -> None: ...

class CvmStats(_message.Message):
    __slots__ = ("cvm_id", "time_us", "processes", "cpu_us", "memory_bytes", "disk_bytes")
    CVM_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    CPU_US_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    cvm_id: str
    time_us: int
    processes: int
    cpu_us: int
    memory_bytes: int
    disk_bytes: int
    def __init__(self, cvm_id: _Optional[str] = ..., time_us: _Optional[int] = ..., processes: _Optional[int] = ..., cpu_us: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("cpu_count", "memory_size", "disk_size")
    CPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_SIZE_FIELD_NUMBER: _ClassVar[int]
    DISK_SIZE_FIELD_NUMBER: _ClassVar[int]
    cpu_count: int
    memory_size: int
    disk_size: int
    def __init__(self, cpu_count: _Optional[int] = ..., memory_size: _Optional[int] = ..., disk_size: _Optional[int] = ...) -> None: ...

class NodeImage(_message.Message):
    __slots__ = ("name", "version", "os_image_hash")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OS_IMAGE_HASH_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    os_image_hash: bytes
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., os_image_hash: _Optional[bytes] = ...) -> None: ...

class NodeInfo(_message.Message):
    __slots__ = ("name", "version", "emulated", "root", "device_id", "capacity", "free", "images", "cvm_count", "running_count", "kms_urls", "incarnation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EMULATED_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    CVM_COUNT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_COUNT_FIELD_NUMBER: _ClassVar[int]
    KMS_URLS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    emulated: bool
    root: str
    device_id: bytes
    capacity: Resources
    free: Resources
    images: _containers.RepeatedCompositeFieldContainer[NodeImage]
    cvm_count: int
    running_count: int
    kms_urls: _containers.RepeatedScalarFieldContainer[str]
    incarnation: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., emulated: _Optional[bool] = ..., root: _Optional[str] = ..., device_id: _Optional[bytes] = ..., capacity: _Optional[_Union[Resources, _Mapping]] = ..., free: _Optional[_Union[Resources, _Mapping]] = ..., images: _Optional[_Iterable[_Union[NodeImage, _Mapping]]] = ..., cvm_count: _Optional[int] = ..., running_count: _Optional[int] = ..., kms_urls: _Optional[_Iterable[str]] = ..., incarnation: _Optional[int] = ...) -> None: ...

class NodeEvent(_message.Message):
    __slots__ = ("sequence", "time_us", "cvm_id", "kind", "detail", "correlation_id")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    CVM_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time_us: int
    cvm_id: str
    kind: str
    detail: str
    correlation_id: str
    def __init__(self, sequence: _Optional[int] = ..., time_us: _Optional[int] = ..., cvm_id: _Optional[str] = ..., kind: _Optional[str] = ..., detail: _Optional[str] = ..., correlation_id: _Optional[str] = ...) -> None: ...
