"""The KMS seen from outside: how guests, nodes and the cloud talk to it."""
