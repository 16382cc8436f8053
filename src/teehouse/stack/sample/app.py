"""A web service for a CVM, on the official dstack-sdk: the program that `teehouse up` deploys.

It runs inside the CVM, from its app-compose file alone: nothing of Teehouse is imported here. Any CVM with
Python and dstack-sdk can run it.

* `GET /`: who serves: app id, instance id, compose hash, as the agent tells them.
* `GET /sign?data=TEXT`: a signature by the app's key, with the chain that vouches for it.
* `GET /quote?nonce=HEX`: a quote over SHA-512("sample-app:" || nonce), with its event log.

It serves HTTPS with an RA-TLS certificate: a client can check, before it says a word, that the key of the
connection lives in the CVM that the quote in the certificate describes.
"""

import hashlib
import http.server
import json
import os
import ssl
import sys
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

from dstack_sdk import DstackClient

QUOTE_TAG = b"sample-app:"
NONCE_LIMIT = 64  # bytes
DATA_LIMIT = 4096  # bytes
ALGORITHM = "secp256k1"


class Refused(Exception):  # noqa: N818 - the word of this house
    """What a caller got wrong, as the text of a 400."""


def who(_query: dict[str, str]) -> dict[str, Any]:
    info = DstackClient().info()
    return {
        "app_name": info.app_name,
        "app_id": info.app_id,
        "instance_id": info.instance_id,
        "compose_hash": info.compose_hash,
        "greeting": os.environ.get("GREETING", ""),
    }


def sign(query: dict[str, str]) -> dict[str, Any]:
    data = query.get("data", "").encode()
    if not 0 < len(data) <= DATA_LIMIT:
        raise Refused(f"data: 1 to {DATA_LIMIT} bytes of text")
    signed = DstackClient().sign(ALGORITHM, data)
    return {
        "algorithm": ALGORITHM,
        "signature": signed.signature,
        "public_key": signed.public_key,
        "signature_chain": signed.signature_chain,
    }


def quote(query: dict[str, str]) -> dict[str, Any]:
    try:
        nonce = bytes.fromhex(query.get("nonce", ""))
    except ValueError:
        nonce = b""
    if not 0 < len(nonce) <= NONCE_LIMIT:
        raise Refused(f"nonce: 1 to {NONCE_LIMIT} bytes, hex")
    answer = DstackClient().get_quote(hashlib.sha512(QUOTE_TAG + nonce).digest())
    return {"quote": answer.quote, "event_log": answer.event_log, "vm_config": answer.vm_config}


ROUTES = {"/": who, "/sign": sign, "/quote": quote}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "sample-app"
    timeout = 30

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        route = ROUTES.get(parts.path)
        if route is None:
            self.answer(404, {"error": "there is /, /sign?data=TEXT and /quote?nonce=HEX"})
            return
        try:
            query = dict(urllib.parse.parse_qsl(parts.query))
            self.answer(200, route(query))
        except Refused as error:
            self.answer(400, {"error": str(error)})
        except Exception as error:  # noqa: BLE001 - whatever the agent did, the caller gets an answer
            self.answer(502, {"error": f"the agent did not answer: {type(error).__name__}"})

    def answer(self, status: int, members: dict[str, Any]) -> None:
        body = json.dumps(members).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives
        print(self.address_string(), format % args, flush=True)  # noqa: T201 - the container's log


class Server(http.server.ThreadingHTTPServer):
    """Shakes hands in the thread of the connection: a client that does not speak holds up nobody else."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext) -> None:
        super().__init__(address, Handler)
        self.tls = tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(Handler.timeout)
        try:
            with self.tls.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except OSError as error:
            print("connection:", type(error).__name__, flush=True)  # noqa: T201 - the container's log


def tls_context() -> ssl.SSLContext:
    """A server context around a fresh RA-TLS key; the key is on disk for as long as OpenSSL reads it."""
    made = DstackClient().get_tls_key(
        "sample-app", ["localhost", "127.0.0.1"], usage_ra_tls=True, usage_server_auth=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory() as folder:  # 0700
        chain, key = Path(folder) / "chain.pem", Path(folder) / "key.pem"
        chain.write_text("".join(made.certificate_chain))
        key.write_text(made.key)
        context.load_cert_chain(chain, key)
    return context


def main() -> int:
    server = Server(("127.0.0.1", int(os.environ.get("PORT", "8443"))), tls_context())
    print(f"serving on https://127.0.0.1:{server.server_address[1]}", flush=True)  # noqa: T201 - the log
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
