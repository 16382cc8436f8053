"""The control plane: the Phala Cloud API on a database, with deployments that survive a kill at any step."""
