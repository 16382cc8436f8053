"""Fetching and caching what a quote is judged against: the I/O side of `attestation`."""
