"""The KMS: evidence and an authorisation in, keys out; and every hand-out on record."""
