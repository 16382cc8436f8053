"""On-chain authorisation: contracts, their reads and writes, and what they say (onchain.md)."""
