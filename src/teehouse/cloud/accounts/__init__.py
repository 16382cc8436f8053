"""Users, workspaces, members, API keys, device-code login, SSH keys, quotas."""
