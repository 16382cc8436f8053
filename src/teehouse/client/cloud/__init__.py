"""The control plane's API for programs: apps, revisions, attestations, deployments (cloud-api.md)."""

from teehouse.client.cloud.clients import AsyncCloudClient, CloudClient
from teehouse.client.cloud.deploying import Deployment
from teehouse.client.cloud.errors import CloudRefusedError, CloudUnavailableError

__all__ = ["AsyncCloudClient", "CloudClient", "CloudRefusedError", "CloudUnavailableError", "Deployment"]
