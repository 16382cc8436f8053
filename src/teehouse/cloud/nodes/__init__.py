"""The hosts that run CVMs, as the control plane knows them."""
