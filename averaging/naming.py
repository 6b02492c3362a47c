"""Names of the averaging services, one set per group name, so that several share one node."""

import hashlib

_GROUP_HASH_SIZE_BYTES = 8


def service_name(service: str, group_name: str) -> str:
    """Name the RPC service that serves one group name: its protocol is `/manyhands/<it>/<major>`.

    The group name is hashed, since it is the user's text of any length and protocol ids are not.
    """
    digest = hashlib.sha256(group_name.encode()).digest()
    return f"{service}.{digest[:_GROUP_HASH_SIZE_BYTES].hex()}"
