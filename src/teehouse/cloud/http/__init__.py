"""The HTTP face of the control plane: versions, errors, callers, pages of results."""
