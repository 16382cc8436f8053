"""The schemas of the cloud's REST API, per dated version where these differ (cloud-api.md 2, 11, 12).

Server and SDK share them. A field written `T | None = None` may be absent; whether null is sent is decided where
an answer is made, because some clients refuse null where they accept absence (cloud-api.md 0).
"""
