"""RPC over HTTP as the field speaks it (prpc): one ASGI application for guest agent, KMS and node."""
