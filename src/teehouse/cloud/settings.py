"""The control plane's settings, from arguments or the environment (`TEEHOUSE_...`)."""

from pathlib import Path
from typing import Final

from pydantic import Field, SecretBytes, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRET_KEY_SIZE: Final = 32  # bytes


class CloudSettings(BaseSettings):
    """All that is set rather than decided.

    `public_url` is where clients reach the API's host, without `/api/v1`; it goes into links. `secret_key` has 32
    bytes and seals what cannot be stored as a hash (webhook secrets) and signs links to logs; replicas share it.
    Durations are seconds, sizes bytes.
    """

    model_config = SettingsConfigDict(env_prefix="TEEHOUSE_", extra="ignore", frozen=True)

    database_url: str = Field(repr=False)
    secret_key: SecretBytes
    public_url: str = "http://127.0.0.1:8080"
    state_directory: Path | None = None
    database_pool_size: int = Field(default=10, ge=1, le=200)
    body_limit: int = Field(default=4 * 1024 * 1024, ge=1024)
    device_code_seconds: int = Field(default=600, ge=60)
    device_code_interval: int = Field(default=5, ge=1)
    session_seconds: int = Field(default=8 * 3600, ge=60)
    idempotency_seconds: int = Field(default=24 * 3600, ge=60)
    provision_seconds: int = Field(default=14 * 24 * 3600, ge=60)
    reservation_seconds: int = Field(default=3600, ge=60)
    telemetry: bool = False  # OpenTelemetry, with the exporter that its own OTEL_... variables name

    @field_validator("secret_key")
    @classmethod
    def _whole(cls, value: SecretBytes) -> SecretBytes:
        if len(value.get_secret_value()) != SECRET_KEY_SIZE:
            raise ValueError(f"the secret key has {SECRET_KEY_SIZE} bytes")
        return value

    @field_validator("public_url")
    @classmethod
    def _bare(cls, value: str) -> str:
        return value.rstrip("/")

    @property
    def api_url(self) -> str:
        """Where the API begins."""
        return f"{self.public_url}/api/v1"
