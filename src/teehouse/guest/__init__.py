"""The guest agent: what a program inside a CVM calls for keys, quotes and certificates."""
