"""Evidence: its layouts, its logs, whether it is genuine (verify) and whether it is wanted (validate). No I/O."""
