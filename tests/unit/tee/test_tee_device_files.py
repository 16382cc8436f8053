"""The device, the register, DMI and the real file operations."""

import errno
import os
from pathlib import Path

import pytest

from support.tee_support import DEVICE, REGISTERS, FakeKernel, error
from teehouse.base.hashes import INITIAL_REGISTER, extend
from teehouse.tee.device import EXTEND_RTMR, GET_REPORT0, TdxDevice
from teehouse.tee.devicefiles import OsFiles
from teehouse.tee.dmi import CloudIdentity, read_cloud_identity
from teehouse.tee.paths import TdxPaths
from teehouse.tee.platform import PlatformError
from teehouse.tee.registers import RuntimeRegister

DIGEST = bytes(range(48))


def test_request_numbers() -> None:
    # linux/tdx-guest.h: TDX_CMD_GET_REPORT0 = _IOWR('T', 1, 64 + 1024); trust.md 15 for the other.
    assert (GET_REPORT0, EXTEND_RTMR) == (0xC4405401, 0x80315403)


class FakeDriver:
    """Answers the two requests as the driver does, on a plain file as device node."""

    def __init__(self) -> None:
        self.registers = [bytes([index]) * 48 for index in range(4)]
        self.calls: list[tuple[int, bytes]] = []

    def __call__(self, descriptor: int, request: int, buffer: bytearray) -> int:
        os.fstat(descriptor)
        self.calls.append((request, bytes(buffer)))
        if request == GET_REPORT0:
            # MAC structure and TCB info 512, then TDINFO: 16 + four measurements of 48, then the RTMRs.
            report = bytes(512) + bytes(16 + 192) + b"".join(self.registers)
            buffer[64:] = report.ljust(1024, b"\xee")
        else:
            self.registers[buffer[48]] = extend(self.registers[buffer[48]], bytes(buffer[:48]))
        return 0


@pytest.fixture
def node(tmp_path: Path) -> Path:
    path = tmp_path / "tdx_guest"
    path.touch()
    return path


def test_a_report(node: Path) -> None:
    driver = FakeDriver()
    report = TdxDevice(node, ioctl=driver).report(b"\x01" * 64)
    assert (len(report), report[-1]) == (1024, 0xEE)
    assert driver.calls == [(GET_REPORT0, b"\x01" * 64 + bytes(1024))]


def test_the_device_extends_and_reads(node: Path) -> None:
    driver = FakeDriver()
    register = RuntimeRegister(REGISTERS, TdxDevice(node, ioctl=driver), OsFiles())
    assert register.available()
    assert register.read() == b"\x03" * 48
    register.extend(DIGEST)
    assert driver.calls[-1] == (EXTEND_RTMR, DIGEST + b"\x03")
    assert register.read() == extend(b"\x03" * 48, DIGEST)


def test_a_device_that_does_not_work(tmp_path: Path, node: Path) -> None:
    def refuse(descriptor: int, request: int, buffer: bytearray) -> int:
        raise error(errno.EIO)

    with pytest.raises(PlatformError, match="Input/output error"):
        TdxDevice(node, ioctl=refuse).extend(3, DIGEST)
    with pytest.raises(PlatformError, match="does not give TDREPORT"):
        TdxDevice(tmp_path / "nothing").report(bytes(64))
    with pytest.raises(PlatformError, match="Inappropriate ioctl"):
        TdxDevice(node).report(bytes(64))


def register_of(kernel: FakeKernel) -> RuntimeRegister:
    return RuntimeRegister(REGISTERS, TdxDevice(DEVICE), kernel)


def test_sysfs_extends_and_reads() -> None:
    kernel = FakeKernel()
    register = register_of(kernel)
    assert (register.available(), register.read()) == (True, INITIAL_REGISTER)
    register.extend(DIGEST)
    assert register.read() == extend(INITIAL_REGISTER, DIGEST)


def test_a_failed_extension_is_not_tried_elsewhere() -> None:
    kernel = FakeKernel(failures={"rtmr3:sha384": [error(errno.EIO)]}, files={DEVICE: b""})
    with pytest.raises(PlatformError) as caught:
        register_of(kernel).extend(DIGEST)
    assert caught.value.finding.code == "tdx.register.failed"
    assert kernel.register == INITIAL_REGISTER


def test_a_register_that_cannot_be_read() -> None:
    kernel = FakeKernel(failures={"rtmr3:sha384": [error(errno.EIO)]})
    with pytest.raises(PlatformError, match="cannot be read"):
        register_of(kernel).read()
    kernel.register = bytes(47)
    with pytest.raises(PlatformError) as caught:
        register_of(kernel).read()
    assert caught.value.finding.code == "tdx.register.size"


def test_no_register_at_all() -> None:
    register = register_of(FakeKernel(registers=False))
    assert (register.available(), register.read()) == (False, None)


def test_real_files(tmp_path: Path) -> None:
    files = OsFiles()
    directory = tmp_path / "entry"
    files.make_directory(directory)
    files.make_directory(directory)
    attribute = directory / "inblob"
    with pytest.raises(FileNotFoundError):
        files.write(attribute, b"x")
    attribute.write_bytes(b"123456")
    files.write(attribute, b"abc")
    assert attribute.read_bytes() == b"abc456"
    assert files.read(attribute, 6) == b"abc456"
    with pytest.raises(OSError, match="more than 5 bytes"):
        files.read(attribute, 5)
    assert (files.exists(attribute), files.exists(tmp_path / "other")) == (True, False)
    assert not files.exists(tmp_path / ("x" * 5000))
    with pytest.raises(FileNotFoundError):
        files.make_directory(tmp_path / "no" / "parent")


def test_a_short_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attribute = tmp_path / "inblob"
    attribute.touch()
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data) - 1)
    with pytest.raises(OSError, match="took 2 of 3 bytes"):
        OsFiles().write(attribute, b"abc")


def test_cloud_identity(tmp_path: Path) -> None:
    assert read_cloud_identity(tmp_path) == CloudIdentity(vendor="", product="")
    (tmp_path / "sys_vendor").write_bytes(b" QEMU\n")
    (tmp_path / "product_name").write_bytes(b"Standard PC \xff\n")
    assert read_cloud_identity(tmp_path) == CloudIdentity(vendor="QEMU", product="Standard PC \ufffd")
    (tmp_path / "sys_vendor").write_bytes(b"x" * 4097)
    assert read_cloud_identity(tmp_path).vendor == ""


def test_paths() -> None:
    # guest-agent.md 10.5, 10.8; trust.md 15
    assert TdxPaths.of({"DSTACK_CCEL_FILE": ""}) == TdxPaths(
        entry=Path("/sys/kernel/config/tsm/report/com.intel.dcap"),
        registers=Path("/sys/devices/virtual/misc/tdx_guest/measurements"),
        device=Path("/dev/tdx_guest"),
        attest_config=Path("/etc/tdx-attest.conf"),
        ccel=Path("/sys/firmware/acpi/tables/data/CCEL"),
        dmi=Path("/sys/class/dmi/id"),
    )
    variables = {
        "DCAP_TDX_QUOTE_CONFIGFS_PATH": "/a/entry",
        "DCAP_TDX_RTMR_SYSFS_PATH": "/b",
        "DSTACK_CCEL_FILE": "/c/ccel.bin",
    }
    assert TdxPaths.of(variables, Path("/root")) == TdxPaths(
        entry=Path("/a/entry"),
        registers=Path("/b"),
        device=Path("/root/dev/tdx_guest"),
        attest_config=Path("/root/etc/tdx-attest.conf"),
        ccel=Path("/c/ccel.bin"),
        dmi=Path("/root/sys/class/dmi/id"),
    )
