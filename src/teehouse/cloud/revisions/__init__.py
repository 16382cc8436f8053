"""What was changed, when, by whom, to which exact bytes."""
