"""What a trusted platform offers, as a Protocol, and the real Intel TDX behind it."""
