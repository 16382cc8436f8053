"""Key derivation, signature chains and signing rules. No I/O."""
