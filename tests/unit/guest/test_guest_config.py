"""The configuration, rule by rule of teehouse.guest.config."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teehouse.base.findings import MisuseError
from teehouse.guest.config import FILE_LIMIT, AgentConfig, CoreConfig, ListenerConfig, load_config
from teehouse.guest.sockets import TcpAddress, UnixAddress, VsockAddress

ANY = "0.0.0.0"  # noqa: S104 - the external listener's address, nothing is bound here

# guest-agent.md 1.1, 1.6
DEFAULTS = AgentConfig(
    core=CoreConfig(
        keys_file=Path("/dstack/.host-shared/.appkeys.json"),
        compose_file=Path("/dstack/.host-shared/app-compose.json"),
        sys_config_file=Path("/dstack/.host-shared/.sys-config.json"),
        data_disks=("/",),
        legacy_ratls_extensions=True,
        attestation_in_quote=False,
    ),
    internal=ListenerConfig(
        UnixAddress(Path("/var/run/dstack/dstack.sock")), ident="dstack guest agent", keep_alive=10, limits={}
    ),
    internal_v0=ListenerConfig(UnixAddress(Path("/var/run/dstack/tappd.sock"))),
    external=ListenerConfig(TcpAddress(ANY, 8090)),
    guest_api=ListenerConfig(VsockAddress(0xFFFFFFFF, 8000)),
)


class Places:
    """The two directories that are looked into, and one file that is named."""

    def __init__(self, tmp_path: Path) -> None:
        self.system = tmp_path / "etc"
        self.working = tmp_path / "here"
        self.system.mkdir()
        self.working.mkdir()
        self.named = tmp_path / "agent.json"

    def load(self, named: Path | None = None) -> AgentConfig:
        return load_config(named, system=self.system, working=self.working)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def loaded(places: Places, text: str) -> AgentConfig:
    (places.working / "dstack.toml").write_text(text)
    return places.load()


def refused(places: Places, text: str) -> MisuseError:
    with pytest.raises(MisuseError) as caught:
        loaded(places, text)
    assert str(places.working / "dstack.toml") in str(caught.value)
    return caught.value


def test_defaults(places: Places) -> None:
    assert places.load() == DEFAULTS
    assert DEFAULTS.external.limit("GetQuote") == 10_485_760


# Rule 1


def test_1_layers(places: Places) -> None:
    def core(directory: Path, kind: str, **values: str) -> None:
        text = json.dumps({"default": {"core": values}})
        if kind == "toml":
            text = "[default.core]\n" + "".join(f"{key} = '{value}'\n" for key, value in values.items())
        (directory / f"dstack.{kind}").write_text(text)

    core(places.system, "toml", keys_file="/1", compose_file="/1", sys_config_file="/1")
    config = places.load()
    assert {config.core.keys_file, config.core.compose_file, config.core.sys_config_file} == {Path("/1")}
    core(places.system, "json", compose_file="/2", sys_config_file="/2")
    core(places.working, "toml", sys_config_file="/3")
    core(places.working, "json", sys_config_file="/4")
    config = places.load()
    assert (config.core.keys_file, config.core.compose_file, config.core.sys_config_file) == (
        Path("/1"),
        Path("/2"),
        Path("/4"),
    )
    # guest-agent.md 1.6: what the setup program writes at boot
    places.named.write_text('{"default":{"core":{"data_disks":["/","/data","/"],"keys_file":"/5"}}}')
    config = places.load(places.named)
    assert (config.core.keys_file, config.core.data_disks) == (Path("/5"), ("/", "/data"))
    assert config.core.compose_file == Path("/2")


def test_1_a_named_file_must_exist(places: Places) -> None:
    with pytest.raises(MisuseError) as caught:
        places.load(places.named)
    assert str(caught.value) == (
        f"the configuration {places.named} does not exist (correct the path after -c)"
    )


def test_4_a_file_that_cannot_be_read(places: Places) -> None:
    (places.system / "dstack.toml").mkdir()
    with pytest.raises(MisuseError) as caught:
        places.load()
    assert str(caught.value) == (
        f"the configuration {places.system / 'dstack.toml'} cannot be read: found Is a directory"
    )


# Rule 2


def test_2_everything_at_once(places: Places) -> None:
    config = loaded(
        places,
        """
        [default]
        ident = "dstack Simulator"
        keep_alive = 5
        [default.limits]
        GetQuote = 100
        Sign = "1 MiB"
        [default.core]
        legacy_ratls_extensions = false
        attestation_in_quote = true
        [internal]
        address = "unix:./dstack.sock"
        reuse = true
        [internal.limits]
        Sign = "2kB"
        [internal-v0]
        keep_alive = 0
        [external]
        address = "127.0.0.1"
        port = 9090
        ident = "outside"
        [guest-api]
        address = "vsock:2"
        """,
    )
    limits = {"GetQuote": 100, "Sign": 1 << 20}
    assert config == AgentConfig(
        core=CoreConfig(legacy_ratls_extensions=False, attestation_in_quote=True),
        internal=ListenerConfig(
            UnixAddress(Path("dstack.sock")), "dstack Simulator", 5, {"GetQuote": 100, "Sign": 2000}
        ),
        internal_v0=ListenerConfig(
            UnixAddress(Path("/var/run/dstack/tappd.sock")), "dstack Simulator", 0, limits
        ),
        external=ListenerConfig(TcpAddress("127.0.0.1", 9090), "outside", 5, limits),
        guest_api=ListenerConfig(VsockAddress(2, 8000), "dstack Simulator", 5, limits),
    )
    assert (config.internal.limit("Sign"), config.internal.limit("Info")) == (2000, 10 << 20)


@pytest.mark.parametrize(
    ("text", "external", "guest_api"),
    [
        ("[external]\nport = 1", TcpAddress(ANY, 1), VsockAddress(0xFFFFFFFF, 8000)),
        ("[external]\naddress = '::'", TcpAddress("::", 8090), VsockAddress(0xFFFFFFFF, 8000)),
        ("[external]\naddress = 'unix:/x'", UnixAddress(Path("/x")), VsockAddress(0xFFFFFFFF, 8000)),
        ("[guest-api]\nport = 9", TcpAddress(ANY, 8090), VsockAddress(0xFFFFFFFF, 9)),
        ("[guest-api]\naddress = 'vsock:0x3'", TcpAddress(ANY, 8090), VsockAddress(3, 8000)),
        ("[guest-api]\naddress = 'localhost'", TcpAddress(ANY, 8090), TcpAddress("localhost", 8000)),
    ],
)
def test_2_addresses(places: Places, text: str, external: object, guest_api: object) -> None:
    config = loaded(places, text)
    assert (config.external.address, config.guest_api.address) == (external, guest_api)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", 7),
        ("'7'", 7),
        ("'10 MiB'", 10 << 20),
        ("'3GB'", 3 * 10**9),
        ("'2kib'", 2048),
        ("'5 b'", 5),
        ("0", 0),
    ],
)
def test_2_sizes(places: Places, text: str, size: int) -> None:
    assert loaded(places, f"[default.limits]\nSign = {text}").internal.limit("Sign") == size


# Rule 3


def test_3_unknown_keys(places: Places) -> None:
    text = "top = 1\n[default]\nworkers = 8\nmax_blocking = 64\n[default.core]\nother = {}\n[global]\nx = 1\n"
    assert loaded(places, text) == DEFAULTS


def test_3_a_json_null_is_no_value(places: Places) -> None:
    places.named.write_text('{"default":{"core":null,"ident":null},"external":{"port":null}}')
    assert places.load(places.named) == DEFAULTS


# Rule 4


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("default = 1", "default", "a table"),
        ("[default]\ncore = 'x'", "default.core", "a table"),
        ("[default]\nlimits = 1", "default.limits", "a table"),
        ("[default.core]\nkeys_file = 1", "default.core.keys_file", "a path"),
        ("[default.core]\nkeys_file = ''", "default.core.keys_file", "a path"),
        ('[default.core]\nkeys_file = "a\\u0000b"', "default.core.keys_file", "a path"),
        ("[default.core]\ndata_disks = '/'", "default.core.data_disks", "a list of mount points"),
        ("[default.core]\ndata_disks = [1]", "default.core.data_disks", "a list of mount points"),
        ("[default.core]\nattestation_in_quote = 1", "default.core.attestation_in_quote", "true or false"),
        ("[default]\nident = 'a\u00e4'", "default.ident", "printable ASCII text"),
        ('[default]\nident = "a\\r\\nb"', "default.ident", "printable ASCII text"),
        ("[external]\nkeep_alive = -1", "external.keep_alive", "whole seconds from 0 to 86400"),
        ("[external]\nkeep_alive = true", "external.keep_alive", "whole seconds from 0 to 86400"),
        ("[external]\nkeep_alive = 86401", "external.keep_alive", "whole seconds from 0 to 86400"),
        ("[external]\nport = 'x'", "external.port", "a port number"),
        ("[internal.limits]\nSign = '1 XiB'", "internal.limits.Sign", "a size below 4 GiB"),
        ("[internal.limits]\nSign = '-1'", "internal.limits.Sign", "a size below 4 GiB"),
        ("[internal.limits]\nSign = '5 GiB'", "internal.limits.Sign", "a size below 4 GiB"),
        ("[internal]\naddress = 'unix:'", "internal.address", "unix:PATH"),
        ("[internal]\naddress = '/run/x.sock'", "internal.address", "unix:PATH"),
        ("[internal]\naddress = 'vsock:x'", "internal.address", "unix:PATH"),
        ("[internal]\naddress = 'vsock:4294967296'", "internal.address", "unix:PATH"),
        ("[external]\nport = 65536\naddress = '0.0.0.0'", "external.address", "unix:PATH"),
    ],
)
def test_4_values_of_the_wrong_kind(places: Places, text: str, key: str, expected: str) -> None:
    finding = refused(places, text).finding
    assert finding.code == "config.value"
    assert finding.subject == f"{key} in {places.working / 'dstack.toml'} is wrong"
    assert finding.expected.startswith(expected)


def test_4_a_wrong_value_is_told_even_under_a_right_one(places: Places) -> None:
    places.named.write_text('{"external":{"port":1}}')
    (places.system / "dstack.toml").write_text("[external]\nport = 'x'")
    with pytest.raises(MisuseError, match=r"external\.port"):
        places.load(places.named)


@pytest.mark.parametrize("text", ["x", "[default", "a = 1\na = 2"])
def test_4_no_toml(places: Places, text: str) -> None:
    finding = refused(places, text).finding
    assert (finding.code, finding.expected) == ("config.unparsable", "TOML")


def test_4_a_deep_value_is_shown_in_short(places: Places) -> None:
    for depth in range(900, 1000, 7):
        places.named.write_text('{"default":{"ident":' + "[" * depth + "]" * depth + "}}")
        with pytest.raises(MisuseError) as caught:
            places.load(places.named)
        assert len(str(caught.value)) < 400 + len(str(places.named))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"1"])
def test_4_no_json(places: Places, data: bytes) -> None:
    places.named.write_bytes(data)
    with pytest.raises(MisuseError) as caught:
        places.load(places.named)
    assert caught.value.finding.code == "config.unparsable"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    ["default", "core", "limits", "external", "address", "port", "data_disks", "ident"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_4_any_json_is_a_configuration_or_refused(places: Places, value: object) -> None:
    places.named.write_text(json.dumps(value))
    try:
        assert isinstance(places.load(places.named), AgentConfig)
    except MisuseError as refusal:
        assert_named(refusal, places.named)


def assert_named(refusal: MisuseError, path: Path) -> None:
    assert str(path) in str(refusal)


# Rule 5


def test_5_a_file_has_a_bound(places: Places) -> None:
    places.named.write_bytes(b"{}".ljust(FILE_LIMIT))
    assert places.load(places.named) == DEFAULTS
    places.named.write_bytes(b"{}".ljust(FILE_LIMIT + 1))
    with pytest.raises(MisuseError) as caught:
        places.load(places.named)
    assert caught.value.finding.code == "config.too-long"
