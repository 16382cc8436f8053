"""What every part stands on: bounded codecs, hashes, clock, error families. Imports nothing of ours."""
