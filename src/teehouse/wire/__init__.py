"""The shapes that cross a wire: .proto files, their JSON and query mapping, shared by servers and clients."""
