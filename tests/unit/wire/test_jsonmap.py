"""JSON, query and protobuf forms of messages (guest-agent.md 2.2 to 2.6)."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from support.wire_support import any_message, every_message_type, messages, same_kind
from teehouse.base.findings import MisuseError
from teehouse.wire import guest_api_pb2, guest_pb2, jsontext
from teehouse.wire.jsonmap import (
    BODY_LIMIT,
    decode_json,
    decode_protobuf,
    decode_query,
    encode_error_json,
    encode_error_protobuf,
    encode_json,
    encode_protobuf,
    render_members,
)

KEY, QUOTE, TLS = guest_pb2.GetKeyArgs, guest_pb2.RawQuoteArgs, guest_pb2.GetTlsKeyArgs


def attempt(call: Any, message_type: type[Message], data: bytes) -> MisuseError | None:
    """The refusal, or None for data that is accepted; any other exception ends the test."""
    try:
        assert isinstance(call(message_type, data), message_type)
    except MisuseError as error:
        return error
    return None


def refusal(call: Any, message_type: type[Message], data: bytes) -> str:
    with pytest.raises(MisuseError) as caught:
        call(message_type, data)
    assert str(caught.value) == caught.value.finding.subject
    return caught.value.finding.subject


# --- JSON in


@pytest.mark.parametrize(
    ("message_type", "body", "expected"),
    [
        (KEY, b"", KEY()),
        (KEY, b"{}", KEY()),
        (KEY, b' {\n"path" : "p" , "other":[{"a":1.5e3}], "other":null}\t', KEY(path="p")),
        (KEY, rb'{"path":"\u00e9\ud83d\ude00"}', KEY(path="é😀")),
        (QUOTE, b'{"report_data":""}', QUOTE()),
        (QUOTE, b'{"report_data":"0x"}', QUOTE()),
        (QUOTE, b'{"report_data":"0x0x00fF"}', QUOTE(report_data=b"\x00\xff")),
        (TLS, b'{"not_before":null,"not_after":0}', TLS(not_after=0)),
        (TLS, b'{"not_after":18446744073709551615}', TLS(not_after=2**64 - 1)),
        (TLS, b'{"alt_names":["a","b"],"usage_ra_tls":true}', TLS(alt_names=["a", "b"], usage_ra_tls=True)),
        (Empty, b"{not looked at \xff", Empty()),
    ],
)
def test_json_requests(message_type: type[Message], body: bytes, expected: Message) -> None:
    found = decode_json(message_type, body)
    assert found == expected
    assert [f.name for f, _ in found.ListFields()] == [f.name for f, _ in expected.ListFields()]


@pytest.mark.parametrize(
    ("message_type", "body", "text"),
    [
        (QUOTE, b'{"report_data":"0"}', "Odd number of digits at line 1 column 18"),  # guest-agent.md 18
        (QUOTE, b'{"report_data":"0x0"}', "Odd number of digits at line 1 column 20"),
        (QUOTE, b'{"report_data":"0X00"}', "Invalid character 'X' at position 1 at line 1 column 21"),
        (QUOTE, b'{"report_data":"0x0z"}', "Invalid character 'z' at position 1 at line 1 column 21"),
        (QUOTE, b'{"report_data":"0 0a"}', "Invalid character ' ' at position 1 at line 1 column 21"),
        (QUOTE, rb'{"report_data":"00\n0"}', r"Invalid character '\n' at position 2 at line 1 column 22"),
        (QUOTE, rb'{"report_data":"00\u007f0"}', r"Invalid character '\u{7f}' at position 2 at line 1 column 26"),
        (QUOTE, '{"report_data":"é"}'.encode(), "Invalid character 'Ã' at position 0 at line 1 column 19"),
        (QUOTE, b'{"report_data":5}', "invalid type: integer `5`, expected a string at line 1 column 16"),
        (KEY, b'{"path":null}', "invalid type: null, expected a string at line 1 column 12"),
        (KEY, b'{"path":true}', "invalid type: boolean `true`, expected a string at line 1 column 12"),
        (KEY, b'{"path":{"a":[]}}', "invalid type: map, expected a string at line 1 column 16"),
        (KEY, b'{"path":"a","path":"b"}', "duplicate field `path` at line 1 column 18"),
        (KEY, b'{"x":[1,{"y":[]}] ,\n "path":5}', "invalid type: integer `5`, expected a string at line 2 column 9"),
        (KEY, b"[]", "invalid type: sequence, expected struct GetKeyArgs at line 1 column 2"),
        (KEY, b"null", "invalid type: null, expected struct GetKeyArgs at line 1 column 4"),
        (KEY, rb'{"path":"\ud800"}', "lone leading surrogate in hex escape at line 1 column 16"),
        (QUOTE, rb'{"report_data":"\ud800"}', "lone leading surrogate in hex escape at line 1 column 23"),
        (TLS, b'{"usage_ra_tls":"true"}', 'invalid type: string "true", expected a boolean at line 1 column 22'),
        (TLS, rb'{"usage_ra_tls":"\ud800\"\n"}', r'invalid type: string "?\"\n", expected a boolean at line 1 column 28'),
        (TLS, b'{"not_after":true}', "invalid type: boolean `true`, expected u64 at line 1 column 17"),
        (TLS, b'{"not_after":"1"}', 'invalid type: string "1", expected u64 at line 1 column 16'),
        (TLS, b'{"not_after":1.0}', "invalid type: floating point `1`, expected u64 at line 1 column 16"),
        (TLS, b'{"not_after":-0}', "invalid type: floating point `-0`, expected u64 at line 1 column 15"),
        (TLS, b'{"not_after":-1}', "invalid value: integer `-1`, expected u64 at line 1 column 15"),
        (
            TLS,
            b'{"not_after":18446744073709551616}',
            "invalid type: floating point `1.8446744073709552e+19`, expected u64 at line 1 column 33",
        ),
        (TLS, b'{"not_after":null,"not_after":1}', "duplicate field `not_after` at line 1 column 29"),
        (TLS, b'{"alt_names":null}', "invalid type: null, expected a sequence at line 1 column 17"),
        (TLS, b'{"alt_names":["a", 5 ]}', "invalid type: integer `5`, expected a string at line 1 column 20"),
        (KEY, b" ", "EOF while parsing a value at line 1 column 1"),
        (KEY, b"{", "EOF while parsing an object at line 1 column 1"),
        (KEY, b'{"a"', "EOF while parsing an object at line 1 column 4"),
        (KEY, b'{"a":', "EOF while parsing a value at line 1 column 5"),
        (KEY, b'{"a":1', "EOF while parsing an object or a list at line 1 column 6"),
        (KEY, b'{"a":"x', "EOF while parsing a string at line 1 column 7"),
        (KEY, b"{x", "key must be a string at line 1 column 2"),
        (KEY, b'{"a" 1}', "expected `:` at line 1 column 6"),
        (KEY, b'{"a":1,}', "trailing comma at line 1 column 8"),
        (KEY, b'{"a":1 2}', "expected `,` or the end of the object or list at line 1 column 8"),
        (KEY, b'{"a":x}', "expected value at line 1 column 6"),
        (KEY, b"{}{", "trailing characters at line 1 column 3"),
        (KEY, b'{"a":"\x01"}', r"control character (\u0000-\u001F) found while parsing a string at line 1 column 7"),
        (KEY, rb'{"a":"\x"}', "invalid escape at line 1 column 7"),
        (KEY, b'{"a":"\\"NaN",\n"b":NaN}', "expected value at line 2 column 5"),
        (KEY, b'{"a":-Infinity}', "expected value at line 1 column 6"),
        (KEY, '{"é":"\xff"}'.encode("latin-1"), "invalid unicode code point at line 1 column 2"),
        (KEY, '{"path":"é'.encode() + b'\xff"}', "invalid unicode code point at line 1 column 11"),
    ],
)  # fmt: skip
def test_json_refusals_keep_their_texts(message_type: type[Message], body: bytes, text: str) -> None:
    assert refusal(decode_json, message_type, body) == text


def test_faults_inside_nested_messages_are_placed() -> None:
    body = b'{"containers":[{"id":"a"},\n{"id":"b", "created":9.5}]}'
    text = refusal(decode_json, guest_api_pb2.ListContainersResponse, body)
    assert text == "invalid type: floating point `9.5`, expected i64 at line 2 column 24"


def test_integers_keep_to_the_size_of_their_field() -> None:
    assert decode_json(guest_api_pb2.Container, b'{"created":-9223372036854775808}').created == -(2**63)
    for message_type, body, text in (
        (guest_api_pb2.Container, b'{"created":9223372036854775808}', "integer `9223372036854775808`, expected i64 at line 1 column 30"),
        (guest_api_pb2.SystemInfo, b'{"num_cpus":4294967296}', "integer `4294967296`, expected u32 at line 1 column 22"),
    ):  # fmt: skip
        assert refusal(decode_json, message_type, body) == f"invalid value: {text}"


def test_long_texts_are_not_echoed_whole() -> None:
    text = refusal(decode_json, TLS, b'{"usage_ra_tls":"' + b"a" * 1000 + b'"}')
    assert text == f'invalid type: string "{"a" * 200}…", expected a boolean at line 1 column 1018'


def test_bounds_of_json() -> None:
    deepest = jsontext.DEPTH_LIMIT - 2
    assert decode_json(KEY, b'{"a":' + b"[" * deepest + b"]" * deepest + b', "path":"]{{["}') == KEY(
        path="]{{["
    )
    unending = b'{"a":"' + b"[" * 200 + b'\\"' * 1_000_000
    assert refusal(decode_json, KEY, unending) == "EOF while parsing a string at line 1 column 2000206"
    flat = b'{"a":[' + b'["[[[["],' * 200 + b"{}]}"
    assert decode_json(KEY, flat) == KEY()
    for opening in (b"[", b'{"a":'):
        text = refusal(decode_json, KEY, b'{"a":' + opening * 100_000)
        column = 5 + deepest * len(opening) + 1
        assert text == f"recursion limit exceeded at line 1 column {column}"
    many = b'{"a":[' + b"1," * jsontext.VALUE_LIMIT + b"1]}"
    assert refusal(decode_json, KEY, many).startswith("too many values")
    assert decode_json(KEY, b'{"a":' + b"9" * 10_000 + b"}") == KEY()
    assert decode_json(KEY, b'{"path":"' + b"a" * 300_000 + b'"}') == KEY(path="a" * 300_000)
    for decode in (decode_json, decode_query, decode_protobuf):
        text = refusal(decode, KEY, b" " * (BODY_LIMIT + 1))
        assert text == "failed to read data: payload too large"


# --- JSON out


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (Empty(), b"null"),
        (
            guest_pb2.GetKeyResponse(key=b"\x00\xff", signature_chain=[b"\x01", b""]),
            b'{"key":"00ff","signature_chain":["01",""]}',
        ),
        (
            guest_pb2.GetQuoteResponse(quote=b"\x04", event_log='["é"]'),
            rb'{"quote":"04","event_log":"[\"\u00e9\"]","report_data":"","vm_config":""}',
        ),
        (
            guest_pb2.GetQuoteResponse(attestation=b"\x01"),
            b'{"quote":"","event_log":"","report_data":"","vm_config":"","attestation":"01"}',
        ),
        (guest_pb2.AttestResponse(), b'{"attestation":""}'),
        (guest_pb2.VerifyResponse(), b'{"valid":false}'),
        (
            TLS(not_after=0),
            (
                b'{"subject":"","alt_names":[],"usage_ra_tls":false,"usage_server_auth":false,'
                b'"usage_client_auth":false,"not_before":null,"not_after":0,"with_app_info":false}'
            ),
        ),
        (
            guest_pb2.AppInfo(app_name="\x7f\u2028😀"),  # order: guest-agent.md 4.4
            (
                b'{"app_id":"","instance_id":"","app_cert":"","tcb_info":"","app_name":"\\u007f\\u2028\\ud83d\\ude00",'
                b'"device_id":"","mr_aggregated":"","os_image_hash":"","key_provider_info":"","compose_hash":"",'
                b'"vm_config":"","cloud_vendor":"","cloud_product":""}'
            ),
        ),
        (
            guest_api_pb2.ListContainersResponse(
                containers=[guest_api_pb2.Container(id="a", names=["n"], created=-1)]
            ),
            b'{"containers":[{"id":"a","names":["n"],"image":"","image_id":"","created":-1,"state":"","status":""}]}',
        ),
    ],
)
def test_json_results(message: Message, body: bytes) -> None:
    assert encode_json(message) == body


def test_error_bodies() -> None:
    assert encode_error_json('a: "é"') == b'{\n  "error": "a: \\"\\u00e9\\""\n}'
    assert guest_pb2.Error.FromString(encode_error_protobuf("a: é")).message == "a: é"
    assert guest_pb2.Error.FromString(encode_error_protobuf("\ud800")).message == "?"


# --- query


@pytest.mark.parametrize(
    ("message_type", "query", "expected"),
    [
        (KEY, b"", KEY()),
        (KEY, b"&&=x&json&unknown=1&unknown=2&a[b=1", KEY()),
        (KEY, b"path=my/key/path&purpose=a+b%2b", KEY(path="my/key/path", purpose="a b+")),
        (KEY, b"path", KEY()),
        (KEY, b"path=a=b%zz", KEY(path="a=b%zz")),
        (KEY, "path=é".encode(), KEY(path="é")),
        (QUOTE, b"report_data=0x00ff", QUOTE(report_data=b"\x00\xff")),
        (QUOTE, b"report_data=", QUOTE()),
        (TLS, b"usage_ra_tls=true&usage_server_auth=false", TLS(usage_ra_tls=True)),
        (TLS, b"not_before=&not_after=1800000000", TLS(not_after=1_800_000_000)),
        (TLS, b"not_after=%2B00000000000000000000007", TLS(not_after=7)),
        (TLS, b"alt_names[]=a&alt_names[]=b", TLS(alt_names=["a", "b"])),
        (TLS, b"alt_names[1]=b&alt_names[0]=a", TLS(alt_names=["a", "b"])),
        (TLS, b"alt_names%5B%5D=a&alt_names%5B%5D=b", TLS(alt_names=["a", "b"])),
        (TLS, b"alt_names=a", TLS(alt_names=["a"])),
        (KEY, b"x[a][b][c][d][e][f][g]=1", KEY()),
        (Empty, b"path=\xff", Empty()),
        (guest_api_pb2.Container, b"created=-5", guest_api_pb2.Container(created=-5)),
    ],
)
def test_queries(message_type: type[Message], query: bytes, expected: Message) -> None:
    found = decode_query(message_type, query)
    assert found == expected
    assert [f.name for f, _ in found.ListFields()] == [f.name for f, _ in expected.ListFields()]


@pytest.mark.parametrize(
    ("message_type", "query", "text"),
    [
        (KEY, b"path=a&path=b", 'Multiple values for one key: "path"'),
        (TLS, b"not_after=&not_after=1", 'Multiple values for one key: "not_after"'),
        (TLS, b"alt_names=a&alt_names=b", 'Multiple values for one key: "alt_names"'),
        (TLS, b"alt_names[0]=a&alt_names=b", 'Multiple values for one key: "alt_names"'),
        (TLS, b"alt_names[0]=a&alt_names[00]=b", 'Multiple values for one key: "0"'),
        (TLS, b"alt_names=a&alt_names[]=b", "Attempted to insert seq value into non-seq structure"),
        (TLS, b"alt_names[]=a&alt_names[0]=b", "Attempted to insert seq value into non-seq structure"),
        (TLS, b"alt_names[0]=a&alt_names[]=b", "Attempted to insert seq value into non-seq structure"),
        (TLS, b"alt_names[x]=a", "invalid type: map, expected a sequence"),
        (TLS, b"alt_names[1234567890]=a", "invalid type: map, expected a sequence"),
        (TLS, b"alt_names[0][x]=a", "invalid type: map, expected a single value"),
        (KEY, b"path[]=a", "invalid type: sequence, expected a single value"),
        (KEY, b"path[a][b][c][d][e][f][g]=a", "invalid type: map, expected a single value"),
        (TLS, b"usage_ra_tls=1", "provided string was not `true` or `false`"),
        (TLS, b"usage_ra_tls=", "provided string was not `true` or `false`"),
        (TLS, b"usage_ra_tls=True", "provided string was not `true` or `false`"),
        (TLS, b"not_after=-1", "invalid digit found in string"),
        (TLS, "not_after=٣".encode(), "invalid digit found in string"),
        (TLS, b"not_after=18446744073709551616", "number too large to fit in target type"),
        (TLS, b"not_after=" + b"9" * 50_000, "number too large to fit in target type"),
        (guest_api_pb2.Container, b"created=", "cannot parse integer from empty string"),
        (guest_api_pb2.Container, b"created=-", "cannot parse integer from empty string"),
        (QUOTE, b"report_data=0", "Odd number of digits"),
        (QUOTE, b"report_data=0z", "Invalid character 'z' at position 1"),
        (KEY, b"path=%ff", "invalid utf-8 sequence of 1 bytes from index 0"),
        (KEY, b"a%ff=1", "invalid utf-8 sequence of 1 bytes from index 1"),
        (
            guest_api_pb2.ListContainersResponse,
            b"containers[]=a",
            'invalid type: string "a", expected a struct',
        ),
        (KEY, b"&" * 10_000, "too many values"),
    ],
)
def test_query_refusals_keep_their_texts(message_type: type[Message], query: bytes, text: str) -> None:
    assert refusal(decode_query, message_type, query) == text


# --- protobuf


def test_protobuf_uses_the_published_numbers() -> None:
    message = TLS(subject="s", alt_names=["a"], not_before=0, with_app_info=True)
    assert encode_protobuf(message).hex() == "0a017312016130004001"
    assert encode_protobuf(guest_pb2.AppInfo(cloud_product="x")).hex() == "82010178"
    assert encode_protobuf(Empty()) == b""
    with_unknown = decode_protobuf(TLS, bytes.fromhex("0a0173120161300040017a0101"))  # and a field 15
    assert encode_json(with_unknown) == encode_json(message)


@pytest.mark.parametrize("body", [b"{}", b'{"path":"p"}', b"\x0a\x01\xff", b"\x0a\x05a", b"\x0b" * 200])
def test_protobuf_refusals(body: bytes) -> None:
    assert refusal(decode_protobuf, KEY, body) == "failed to decode Protobuf message: GetKeyArgs"


# --- properties


@given(any_message())
def test_round_trips(message: Message) -> None:
    body = encode_json(message)
    assert body.isascii()
    assert decode_json(type(message), body) == message
    assert decode_protobuf(type(message), encode_protobuf(message)) == message


@given(any_message())
def test_json_of_results_is_json_with_members_in_declaration_order(message: Message) -> None:
    value = json.loads(encode_json(message))
    declared = [field.name for field in type(message).DESCRIPTOR.fields]
    if isinstance(message, Empty):
        assert value is None
    elif isinstance(message, guest_pb2.GetQuoteResponse) and not message.attestation:
        assert list(value) == declared[:-1]
    else:
        assert list(value) == declared


def as_query(message: Message) -> str:
    """The message as clients write it in a query string."""
    parts = []
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        for item in values:
            text = (
                item.hex()
                if isinstance(item, bytes)
                else str(item).lower()
                if isinstance(item, bool)
                else str(item)
            )
            parts.append(f"{field.name}{'[]' if field.is_repeated else ''}={quote(text)}")
    return "&".join(parts)  # fmt: skip


@given(st.sampled_from([t for t in every_message_type() if same_kind(t)]).flatmap(messages))
def test_the_three_encodings_say_the_same(message: Message) -> None:
    query = decode_query(type(message), as_query(message).encode())
    body = decode_json(type(message), encode_json(message))
    assert query == body == decode_protobuf(type(message), encode_protobuf(message)) == message


@given(st.sampled_from(every_message_type()), st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_by_misuse_only(message_type: type[Message], data: bytes) -> None:
    for decode in (decode_json, decode_query, decode_protobuf):
        error = attempt(decode, message_type, data)
        if error is not None:
            assert str(error) == error.finding.subject
            assert json.loads(encode_error_json(str(error))) == {"error": str(error)}
            assert guest_pb2.Error.FromString(encode_error_protobuf(str(error))).message == str(error)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["path", "alt_names", "containers", "id", "created", "x"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(st.sampled_from(every_message_type()), JSON_VALUES, st.sampled_from([None, 1]))
def test_any_json_value_is_read_or_refused(
    message_type: type[Message], value: Any, indent: int | None
) -> None:
    error = attempt(decode_json, message_type, json.dumps(value, indent=indent).encode())
    assert error is None or " at line " in str(error)


@given(st.sampled_from([TLS, KEY, guest_pb2.TdxQuoteArgs, guest_api_pb2.SystemInfo]), st.data())
def test_any_query_of_known_keys_is_read_or_refused(message_type: type[Message], data: st.DataObject) -> None:
    names = st.sampled_from([field.name for field in message_type.DESCRIPTOR.fields])
    brackets = st.sampled_from(["", "", "[]", "[0]", "[1]", "[a]", "[0][0]", "[", "]"])
    values = st.sampled_from(["", "true", "1", "00", "x", "%ff", "-1"])
    members = data.draw(st.lists(st.tuples(names, brackets, values), max_size=4))
    query = "&".join(f"{name}{bracket}={value}" for name, bracket, value in members).encode()
    error = attempt(decode_query, message_type, query)
    assert error is None or error.finding.code == "wire.query"


def test_members_rendered_before_stand_where_they_belong() -> None:
    answer = guest_pb2.GetQuoteResponse(
        quote=b"\1", event_log='["log"]', report_data=b"\2", vm_config="{}", attestation=b""
    )
    rendered = render_members(answer, "event_log", "vm_config", "attestation")
    assert encode_json(answer, rendered) == encode_json(answer)
    other = guest_pb2.GetQuoteResponse(quote=b"\3", event_log="another", attestation=b"\4")
    assert (
        encode_json(other, rendered)
        == b'{"quote":"03","event_log":"[\\"log\\"]","report_data":"","vm_config":"{}","attestation":"04"}'
    )
