"""The tables of the first release."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from teehouse.cloud.db import search
from teehouse.cloud.db.base import BigKey, JsonColumn, UtcDateTime, hex_text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def upgrade() -> None:  # noqa: PLR0915 - one statement per table and index
    """Make them."""
    op.create_table(
        "compose_files",
        sa.Column("compose_hash", hex_text(64), primary_key=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("services", JsonColumn, nullable=False),
        sa.Column("docker_compose_hash", hex_text(64)),
        sa.Column("pre_launch_script_hash", hex_text(64)),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "instance_types",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("family", sa.String(32), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("vcpu", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("default_disk_gb", sa.Integer(), nullable=False),
        sa.Column("gpu_count", sa.Integer(), nullable=False),
        sa.Column("hourly_rate", sa.Numeric(12, 6), nullable=False),
        sa.Column("display_order", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_instance_types_family", "instance_types", ["family"])
    op.create_table(
        "kms_contracts",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("slug", sa.String(64), nullable=False, unique=True),
        sa.Column("label", sa.String(128)),
        sa.Column("contract_address", sa.String(42), nullable=False),
        sa.Column("chain_id", BigKey, nullable=False),
        sa.Column("k256_pubkey", hex_text(130)),
        sa.Column("ca_pubkey", sa.Text()),
        sa.Column("gateway_contract_address", sa.String(42)),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "os_images",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("name", sa.String(128), nullable=False, unique=True),
        sa.Column("slug", sa.String(128), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("os_image_hash", hex_text(64)),
        sa.Column("is_dev", sa.Boolean(), nullable=False),
        sa.Column("requires_gpu", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "users",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("username", sa.String(64), nullable=False, unique=True),
        sa.Column("email", sa.String(254), nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("avatar_url", sa.Text()),
        sa.Column("email_verified", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("slug", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("tier", sa.String(32), nullable=False),
        sa.Column("avatar_url", sa.Text()),
        sa.Column("next_nonce", BigKey, nullable=False),
        sa.Column("balance", sa.Numeric(18, 6), nullable=False),
        sa.Column("granted_balance", sa.Numeric(18, 6), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id", ondelete="CASCADE"), nullable=False),
        sa.Column("user_id", BigKey, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("key_hash", hex_text(64), nullable=False, unique=True),
        sa.Column("scopes", JsonColumn, nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("last_used_at", UtcDateTime()),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("revoked_at", UtcDateTime()),
    )
    op.create_index("ix_api_keys_workspace_id_id", "api_keys", ["workspace_id", "id"])
    op.create_table(
        "idempotency_keys",
        sa.Column(
            "workspace_id", BigKey, sa.ForeignKey("workspaces.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", hex_text(64), nullable=False),
        sa.Column("status_code", sa.Integer()),
        sa.Column("content_type", sa.String(128)),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("locked_until", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])
    op.create_table(
        "kms_nodes",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("contract_id", BigKey, sa.ForeignKey("kms_contracts.id"), nullable=False),
        sa.Column("slug", sa.String(64), nullable=False, unique=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("kms_type", sa.String(16), nullable=False),
        sa.Column("gateway_app_id", sa.String(42)),
        sa.Column("gateway_app_url", sa.Text()),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_kms_nodes_contract_id", "kms_nodes", ["contract_id"])
    op.create_index("ix_kms_nodes_kms_type", "kms_nodes", ["kms_type"])
    op.create_table(
        "memberships",
        sa.Column("user_id", BigKey, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column(
            "workspace_id", BigKey, sa.ForeignKey("workspaces.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_memberships_workspace_id_user_id", "memberships", ["workspace_id", "user_id"])
    op.create_table(
        "quotas",
        sa.Column(
            "workspace_id",
            BigKey,
            sa.ForeignKey("workspaces.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("vm_slots", sa.Integer(), nullable=False, server_default=sa.text("16")),
        sa.Column("vcpu", sa.Integer(), nullable=False, server_default=sa.text("32")),
        sa.Column("memory_mb", sa.Integer(), nullable=False, server_default=sa.text("65536")),
        sa.Column("disk_gb", sa.Integer(), nullable=False, server_default=sa.text("1280")),
        sa.Column("reserved_nodes", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("reserved_gpus", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("api_keys", sa.Integer(), nullable=False, server_default=sa.text("64")),
        sa.Column("webhooks", sa.Integer(), nullable=False, server_default=sa.text("16")),
        sa.CheckConstraint(
            "vm_slots >= 0 AND vcpu >= 0 AND memory_mb >= 0 AND disk_gb >= 0", name="not_negative"
        ),
    )
    op.create_table(
        "ssh_keys",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("user_id", BigKey, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("key_type", sa.String(64), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("key_metadata", JsonColumn),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("last_synced_at", UtcDateTime()),
        sa.UniqueConstraint("user_id", "fingerprint"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "webhooks",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id", ondelete="CASCADE"), nullable=False),
        sa.Column("user_id", BigKey, sa.ForeignKey("users.id", ondelete="SET NULL")),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("events", JsonColumn, nullable=False),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime()),
    )
    op.create_index("ix_webhooks_workspace_id_id", "webhooks", ["workspace_id", "id"])
    op.create_table(
        "apps",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("creator_id", BigKey, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("app_id", hex_text(40), nullable=False, unique=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("provision_type", sa.String(16), nullable=False),
        sa.Column("kms_id", BigKey, sa.ForeignKey("kms_nodes.id"), nullable=False),
        sa.Column("kms_type", sa.String(16), nullable=False),
        sa.Column("nonce", BigKey),
        sa.Column("chain_id", BigKey),
        sa.Column("contract_address", sa.String(42)),
        sa.Column("deployer_address", sa.String(42)),
        sa.Column("env_pubkey", hex_text(64)),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("icon_url", sa.Text()),
        sa.Column("display_name", sa.String(128)),
        sa.Column("avatar_url", sa.Text()),
        sa.Column("description", sa.Text()),
        sa.Column("custom_domain", sa.String(253)),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime()),
    )
    op.create_index("ix_apps_workspace_id_id", "apps", ["workspace_id", "id"], **_where("deleted_at IS NULL"))
    op.create_index(
        "ix_apps_workspace_id_kms_id_id",
        "apps",
        ["workspace_id", "kms_id", "id"],
        **_where("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_apps_workspace_id_kms_type_id",
        "apps",
        ["workspace_id", "kms_type", "id"],
        **_where("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_apps_workspace_id_listed_id",
        "apps",
        ["workspace_id", "listed", "id"],
        **_where("deleted_at IS NULL"),
    )
    op.create_index("ix_apps_workspace_id_name", "apps", ["workspace_id", "name"])
    op.create_table(
        "device_codes",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("device_code_hash", hex_text(64), nullable=False, unique=True),
        sa.Column("user_code", sa.String(16), nullable=False, unique=True),
        sa.Column("client_id", sa.String(64), nullable=False),
        sa.Column("scopes", JsonColumn, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("interval", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("polled_at", UtcDateTime()),
        sa.Column("user_id", BigKey, sa.ForeignKey("users.id", ondelete="CASCADE")),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id", ondelete="CASCADE")),
        sa.Column("api_key_id", BigKey, sa.ForeignKey("api_keys.id", ondelete="SET NULL")),
    )
    op.create_index("ix_device_codes_expires_at", "device_codes", ["expires_at"])
    op.create_table(
        "nodes",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id")),
        sa.Column("url", sa.Text()),
        sa.Column("bundle", sa.Text()),
        sa.Column("emulated", sa.Boolean(), nullable=False),
        sa.Column("root", sa.String(128), nullable=False),
        sa.Column("device_id", hex_text(64)),
        sa.Column("ppid", hex_text(64)),
        sa.Column("fmspc", hex_text(12)),
        sa.Column("gateway_domain", sa.String(253)),
        sa.Column("default_kms_id", BigKey, sa.ForeignKey("kms_nodes.id")),
        sa.Column("vcpu", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("disk_gb", sa.Integer(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("used_vcpu", sa.Integer(), nullable=False),
        sa.Column("used_memory_mb", sa.Integer(), nullable=False),
        sa.Column("used_disk_gb", sa.Integer(), nullable=False),
        sa.Column("used_slots", sa.Integer(), nullable=False),
        sa.Column("used_gpus", sa.Integer(), nullable=False),
        sa.Column("incarnation", BigKey),
        sa.Column("event_cursor", BigKey, nullable=False),
        sa.Column("last_seen_at", UtcDateTime()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint(
            "used_vcpu >= 0 AND used_memory_mb >= 0 AND used_disk_gb >= 0 AND used_slots >= 0 AND used_gpus >= 0",
            name="used_not_negative",
        ),
    )
    op.create_index("ix_nodes_device_id", "nodes", ["device_id"])
    op.create_index("ix_nodes_region_id", "nodes", ["region", "id"])
    op.create_index("ix_nodes_workspace_id", "nodes", ["workspace_id"])
    op.create_table(
        "web_sessions",
        sa.Column("token_hash", hex_text(64), primary_key=True),
        sa.Column("api_key_id", BigKey, sa.ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_web_sessions_expires_at", "web_sessions", ["expires_at"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id", ondelete="CASCADE"), nullable=False),
        sa.Column("webhook_id", BigKey, sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
        sa.Column("event_id", sa.String(40), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", UtcDateTime(), nullable=False),
        sa.Column("claimed_until", UtcDateTime()),
        sa.Column("response_status", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("delivered_at", UtcDateTime()),
    )
    op.create_index("ix_webhook_deliveries_event_id", "webhook_deliveries", ["event_id"])
    op.create_index(
        "ix_webhook_deliveries_next_attempt_at_id",
        "webhook_deliveries",
        ["next_attempt_at", "id"],
        **_where("status = 'pending'"),
    )
    op.create_index("ix_webhook_deliveries_webhook_id_id", "webhook_deliveries", ["webhook_id", "id"])
    op.create_table(
        "cvms",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("vm_uuid", hex_text(32), nullable=False, unique=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("app_record_id", BigKey, sa.ForeignKey("apps.id"), nullable=False),
        sa.Column("creator_id", BigKey, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("desired", sa.String(16), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("node_id", BigKey, sa.ForeignKey("nodes.id")),
        sa.Column("kms_id", BigKey, sa.ForeignKey("kms_nodes.id"), nullable=False),
        sa.Column("os_image_id", BigKey, sa.ForeignKey("os_images.id"), nullable=False),
        sa.Column("base_image", sa.String(128), nullable=False),
        sa.Column("instance_type", sa.String(64)),
        sa.Column("vcpu", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("disk_gb", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("compose_hash", hex_text(64), sa.ForeignKey("compose_files.compose_hash"), nullable=False),
        sa.Column("instance_id", hex_text(40)),
        sa.Column("public_logs", sa.Boolean(), nullable=False),
        sa.Column("public_sysinfo", sa.Boolean(), nullable=False),
        sa.Column("public_tcbinfo", sa.Boolean(), nullable=False),
        sa.Column("gateway_enabled", sa.Boolean(), nullable=False),
        sa.Column("secure_time", sa.Boolean(), nullable=False),
        sa.Column("storage_fs", sa.String(8)),
        sa.Column("shutdown_timeout", sa.Integer()),
        sa.Column("allow_force_stop", sa.Boolean(), nullable=False),
        sa.Column("boot_progress", sa.Text()),
        sa.Column("boot_error", sa.Text()),
        sa.Column("shutdown_progress", sa.Text()),
        sa.Column("correlation_id", sa.String(128)),
        sa.Column("started_at", UtcDateTime()),
        sa.Column("exited_at", UtcDateTime()),
        sa.Column("observed_at", UtcDateTime()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime()),
    )
    op.create_index(
        "ix_cvms_app_record_id_id", "cvms", ["app_record_id", "id"], **_where("deleted_at IS NULL")
    )
    op.create_index("ix_cvms_instance_id", "cvms", ["instance_id"])
    op.create_index("ix_cvms_node_id_id", "cvms", ["node_id", "id"], **_where("deleted_at IS NULL"))
    op.create_index(
        "ix_cvms_workspace_id_base_image_app_record_id",
        "cvms",
        ["workspace_id", "base_image", "app_record_id"],
        **_where("deleted_at IS NULL"),
    )
    op.create_index("ix_cvms_workspace_id_id", "cvms", ["workspace_id", "id"], **_where("deleted_at IS NULL"))
    op.create_index(
        "ix_cvms_workspace_id_instance_type_app_record_id",
        "cvms",
        ["workspace_id", "instance_type", "app_record_id"],
        **_where("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_cvms_workspace_id_node_id_app_record_id",
        "cvms",
        ["workspace_id", "node_id", "app_record_id"],
        **_where("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_cvms_workspace_id_status_app_record_id",
        "cvms",
        ["workspace_id", "status", "app_record_id"],
        **_where("deleted_at IS NULL"),
    )
    op.create_index(
        "uq_cvms_workspace_id_name_live",
        "cvms",
        ["workspace_id", "name"],
        unique=True,
        **_where("deleted_at IS NULL"),
    )
    op.create_table(
        "node_devices",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("node_id", BigKey, sa.ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
        sa.Column("device_id", hex_text(64), nullable=False),
        sa.Column("algorithm_version", sa.String(16), nullable=False),
        sa.Column("os_image_ids", JsonColumn, nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("node_id", "device_id"),
    )
    op.create_index("ix_node_devices_device_id", "node_devices", ["device_id"])
    op.create_table(
        "node_images",
        sa.Column("node_id", BigKey, sa.ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("os_image_id", BigKey, sa.ForeignKey("os_images.id"), primary_key=True),
    )
    op.create_index("ix_node_images_os_image_id_node_id", "node_images", ["os_image_id", "node_id"])
    op.create_table(
        "node_kms",
        sa.Column("node_id", BigKey, sa.ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("kms_id", BigKey, sa.ForeignKey("kms_nodes.id"), primary_key=True),
    )
    op.create_index("ix_node_kms_kms_id_node_id", "node_kms", ["kms_id", "node_id"])
    op.create_table(
        "commit_tokens",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("token_hash", hex_text(64), nullable=False, unique=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("user_id", BigKey, sa.ForeignKey("users.id")),
        sa.Column("app_record_id", BigKey, sa.ForeignKey("apps.id"), nullable=False),
        sa.Column("cvm_id", BigKey, sa.ForeignKey("cvms.id")),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("compose_hash", hex_text(64), sa.ForeignKey("compose_files.compose_hash"), nullable=False),
        sa.Column("change", JsonColumn, nullable=False),
        sa.Column("encrypted_env", sa.LargeBinary()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("used_at", UtcDateTime()),
        sa.Column("superseded_at", UtcDateTime()),
    )
    op.create_index(
        "ix_commit_tokens_app_record_id_kind_id", "commit_tokens", ["app_record_id", "kind", "id"]
    )
    op.create_index("ix_commit_tokens_cvm_id_kind_id", "commit_tokens", ["cvm_id", "kind", "id"])
    op.create_index("ix_commit_tokens_expires_at", "commit_tokens", ["expires_at"])
    op.create_table(
        "operations",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("cvm_id", BigKey, sa.ForeignKey("cvms.id"), nullable=False),
        sa.Column("user_id", BigKey, sa.ForeignKey("users.id")),
        sa.Column("operation_type", sa.String(32), nullable=False),
        sa.Column("target", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("correlation_id", sa.String(128), nullable=False, unique=True),
        sa.Column("workflow_id", sa.String(128), unique=True),
        sa.Column("trace_id", hex_text(32)),
        sa.Column("request", JsonColumn, nullable=False),
        sa.Column("error", JsonColumn),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime()),
    )
    op.create_index("ix_operations_cvm_id_id", "operations", ["cvm_id", "id"])
    op.create_index("ix_operations_workspace_id_id", "operations", ["workspace_id", "id"])
    op.create_index(
        "uq_operations_cvm_id_unfinished",
        "operations",
        ["cvm_id"],
        unique=True,
        **_where("finished_at IS NULL"),
    )
    op.create_table(
        "provisions",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("user_id", BigKey, sa.ForeignKey("users.id")),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("compose_hash", hex_text(64), sa.ForeignKey("compose_files.compose_hash"), nullable=False),
        sa.Column("app_id", hex_text(40)),
        sa.Column("nonce", BigKey),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("node_id", BigKey, sa.ForeignKey("nodes.id")),
        sa.Column("kms_id", BigKey, sa.ForeignKey("kms_nodes.id")),
        sa.Column("os_image_id", BigKey, sa.ForeignKey("os_images.id")),
        sa.Column("instance_type", sa.String(64)),
        sa.Column("vcpu", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("disk_gb", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("settings", JsonColumn, nullable=False),
        sa.Column("cvm_id", BigKey, sa.ForeignKey("cvms.id")),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("committed_at", UtcDateTime()),
    )
    op.create_index("ix_provisions_expires_at", "provisions", ["expires_at"])
    op.create_index("ix_provisions_workspace_id_app_id_id", "provisions", ["workspace_id", "app_id", "id"])
    op.create_index(
        "ix_provisions_workspace_id_compose_hash_id", "provisions", ["workspace_id", "compose_hash", "id"]
    )
    op.create_table(
        "revisions",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("app_record_id", BigKey, sa.ForeignKey("apps.id"), nullable=False),
        sa.Column("cvm_id", BigKey, sa.ForeignKey("cvms.id"), nullable=False),
        sa.Column("user_id", BigKey, sa.ForeignKey("users.id")),
        sa.Column("operation_type", sa.String(32), nullable=False),
        sa.Column("compose_hash", hex_text(64), sa.ForeignKey("compose_files.compose_hash"), nullable=False),
        sa.Column("encrypted_env", sa.LargeBinary(), nullable=False),
        sa.Column("user_config", sa.Text(), nullable=False),
        sa.Column("changed", JsonColumn, nullable=False),
        sa.Column("trace_id", hex_text(32)),
        sa.Column("correlation_id", sa.String(128)),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_revisions_app_record_id_id", "revisions", ["app_record_id", "id"])
    op.create_index("ix_revisions_correlation_id", "revisions", ["correlation_id"])
    op.create_index("ix_revisions_cvm_id_id", "revisions", ["cvm_id", "id"])
    op.create_index("ix_revisions_workspace_id_id", "revisions", ["workspace_id", "id"])
    op.create_table(
        "cvm_events",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("cvm_id", BigKey, sa.ForeignKey("cvms.id"), nullable=False),
        sa.Column("operation_id", BigKey, sa.ForeignKey("operations.id")),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_cvm_events_cvm_id_id", "cvm_events", ["cvm_id", "id"])
    op.create_table(
        "reservations",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("workspace_id", BigKey, sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("node_id", BigKey, sa.ForeignKey("nodes.id"), nullable=False),
        sa.Column("provision_id", BigKey, sa.ForeignKey("provisions.id"), unique=True),
        sa.Column("cvm_id", BigKey, sa.ForeignKey("cvms.id"), unique=True),
        sa.Column("vcpu", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("disk_gb", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime()),
    )
    op.create_index("ix_reservations_expires_at", "reservations", ["expires_at"])
    op.create_index("ix_reservations_node_id_id", "reservations", ["node_id", "id"])
    op.create_index("ix_reservations_workspace_id_id", "reservations", ["workspace_id", "id"])
    search.create_index(op.get_bind())


def downgrade() -> None:
    """Drop them."""
    search.drop_index(op.get_bind())
    for table in (
        "reservations",
        "cvm_events",
        "revisions",
        "provisions",
        "operations",
        "commit_tokens",
        "node_kms",
        "node_images",
        "node_devices",
        "cvms",
        "webhook_deliveries",
        "web_sessions",
        "nodes",
        "device_codes",
        "apps",
        "webhooks",
        "ssh_keys",
        "quotas",
        "memberships",
        "kms_nodes",
        "idempotency_keys",
        "api_keys",
        "workspaces",
        "users",
        "os_images",
        "kms_contracts",
        "instance_types",
        "compose_files",
    ):
        op.drop_table(table)
