"""What can be asked for: instance types, OS images, KMSs."""
