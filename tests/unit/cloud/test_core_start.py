"""The application's start and end, its settings, its log."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from pydantic import ValidationError

from support.cloud_core_support import SECRET_KEY, cloud, migrated_url
from teehouse.base.findings import MisuseError
from teehouse.cloud.db.engine import open_database
from teehouse.cloud.http.app import create_app
from teehouse.cloud.http.logs import configure_logs
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.settings import CloudSettings


@pytest.fixture
def own_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()


async def test_what_lives_with_the_application_begins_in_order_and_ends_backwards(tmp_path: Path) -> None:
    told: list[str] = []

    def part(name: str) -> object:
        @asynccontextmanager
        async def lifespan(parts: CloudParts) -> AsyncIterator[None]:
            assert isinstance(parts, CloudParts)
            told.append(f"{name} begins")
            yield
            told.append(f"{name} ends")

        return lifespan

    url = await migrated_url("sqlite", tmp_path)
    parts = CloudParts(CloudSettings(database_url=url, secret_key=SECRET_KEY), open_database(url))
    app = create_app(parts, lifespans=[part("one"), part("two")])  # type: ignore[list-item]  # made above
    sent: list[str] = []
    steps = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, str]:
        return {"type": next(steps)}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])
        told.append(message["type"].partition(".")[2])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)  # type: ignore[arg-type]  # a bare server
    assert told == [
        "one begins",
        "two begins",
        "startup.complete",
        "two ends",
        "one ends",
        "shutdown.complete",
    ]


async def test_the_log_has_ids_and_no_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_log: None
) -> None:
    async with cloud("sqlite", tmp_path) as here:
        configure_logs()
        await here.client().get("/api/v1/auth/me?token=hunter2", headers={"X-Request-ID": "r-1"})
        await here.database.dispose()

        async def broken(*_given: object) -> None:
            raise RuntimeError("a bug")

        here.app.add_route("/broken", broken)
        await here.client().get("/broken", headers={"X-Request-ID": "r-2"})
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        by_event = {(line["event"], line["request_id"]): line for line in lines}
        answered = by_event["request", "r-1"]
        assert {name: answered[name] for name in ("method", "path", "status", "level")} == {
            "method": "GET",
            "path": "/api/v1/auth/me",
            "status": 200,
            "level": "info",
        }
        assert "a bug" in by_event["request failed", "r-2"]["traceback"]
        assert here.first.api_key not in str(lines)
        assert "hunter2" not in str(lines)


async def test_a_use_that_cannot_be_written_down_spoils_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_given: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr("teehouse.cloud.http.key_use.note_use", failing)
    async with cloud("sqlite", tmp_path) as here:
        assert (await here.client().get("/api/v1/auth/me")).status_code == 200


def test_settings_keep_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEEHOUSE_DATABASE_URL", "postgresql+psycopg://u:hunter2@h/d")
    monkeypatch.setenv("TEEHOUSE_PUBLIC_URL", "https://cloud.example.org/")
    settings = CloudSettings(secret_key=b"s" * 32)
    assert "hunter2" not in repr(settings)
    assert "ssss" not in repr(settings)
    assert settings.api_url == "https://cloud.example.org/api/v1"
    with pytest.raises(ValidationError, match="32 bytes"):
        CloudSettings(secret_key=b"short")


async def test_telemetry_without_its_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teehouse.cloud.tracing.find_spec", lambda _name: None)
    url = await migrated_url("sqlite", tmp_path)
    parts = CloudParts(
        CloudSettings(database_url=url, secret_key=SECRET_KEY, telemetry=True), open_database(url)
    )
    with pytest.raises(MisuseError) as caught:
        create_app(parts)
    assert caught.value.finding.code == "cloud.telemetry"
