"""Object identifiers of the certificate extensions that carry evidence (guest-agent.md 9.2, trust.md 10).

They stand here because attestation reads them, keys and ratls write them, and none of these may import
all the others. `teehouse.ratls.oids` is the name under which users of certificates find them.
"""

ARC = "1.3.6.1.4.1.62397.1"

QUOTE = f"{ARC}.1"  # raw TDX quote (legacy)
EVENT_LOG = f"{ARC}.2"  # event log as JSON text (legacy)
APP_ID = f"{ARC}.3"  # 20 raw bytes
USAGE = f"{ARC}.4"  # text, e.g. app:custom
ATTESTATION = f"{ARC}.8"  # versioned attestation, stripped
APP_INFO = f"{ARC}.9"  # msgpack array
