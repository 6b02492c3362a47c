"""The messages of state download: protocol `/manyhands/state.<group hash>/1`.

    newcomer -> donor   manifest(minimum_version, wait_s)   the donor may wait for its next step
    donor               version, metadata, table of tensors, one BLAKE3 hash for each chunk
    newcomer -> donor   chunks(snapshot, index), then more indices on the same stream
    donor               index + raw bytes, in the order asked; index alone while the chunk waits

All tensors lie end to end in the order of the table, C-contiguous and little-endian; a chunk is a
run of these bytes. A snapshot's id is the SHA-256 of its manifest as sent.

A donor that limits what it sends keeps newcomers waiting. Each second it then sends the index of
the chunk that is due, without bytes, as no chunk is: so a newcomer can tell it from a dead one.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from p2p import Message, Method

SERVICE = "state"
MAJOR = 1

HASH_SIZE_BYTES = 32
# The hashes of 30 GB in chunks of 256 KiB fit, or thousands of tensors with long names.
MANIFEST_BYTES_MAX = 4 << 20
METADATA_BYTES_MAX = 1 << 20
TENSORS_MAX = 16_384
DIMENSIONS_MAX = 16
CHUNK_SIZE_BYTES_MAX = 4 << 20
WAIT_S_MAX = 60.0
WAITS_TOLD_EVERY_S = 1.0
# Ten minutes for one chunk: eight newcomers at 3.5 kB/s. Who says more often that a chunk waits
# only holds up whoever listens.
WAITS_TOLD_MAX = 600

Hash = Annotated[bytes, Meta(min_length=HASH_SIZE_BYTES, max_length=HASH_SIZE_BYTES)]
Version = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Index = Annotated[int, Meta(ge=0, lt=2**31)]
Size = Annotated[int, Meta(ge=0, lt=2**48)]
Shape = Annotated[tuple[Size, ...], Meta(max_length=DIMENSIONS_MAX)]


class ManifestRequest(Message, frozen=True):
    """Asks for a state of at least this version, and how long the donor may take to have one."""

    minimum_version: Version
    wait_s: Annotated[float, Meta(ge=0, le=WAIT_S_MAX)]


class ManifestAnswer(Message, frozen=True):
    """What a snapshot holds, and the hash of each of its chunks, one after another."""

    version: Version
    metadata: Annotated[bytes, Meta(max_length=METADATA_BYTES_MAX)]
    names: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=512)], ...], Meta(max_length=TENSORS_MAX)
    ]
    shapes: Annotated[tuple[Shape, ...], Meta(max_length=TENSORS_MAX)]
    dtypes: Annotated[tuple[Annotated[str, Meta(max_length=16)], ...], Meta(max_length=TENSORS_MAX)]
    chunk_size_bytes: Annotated[int, Meta(ge=1, le=CHUNK_SIZE_BYTES_MAX)]
    digests: Annotated[bytes, Meta(max_length=MANIFEST_BYTES_MAX)]


class ChunkRequest(Message, frozen=True):
    """Asks for one chunk of a snapshot."""

    snapshot_id: Hash
    index: Index


class ChunkAnswer(Message, frozen=True):
    """Announces the bytes of one chunk behind it; without bytes, says that the chunk waits."""

    index: Index


MANIFEST = Method(
    "manifest",
    ManifestRequest,
    ManifestAnswer,
    request_bytes_max=64,
    response_bytes_max=MANIFEST_BYTES_MAX,
)
CHUNKS = Method(
    "chunks",
    ChunkRequest,
    ChunkAnswer,
    request_bytes_max=64,
    response_bytes_max=64,
    payload_bytes_max=CHUNK_SIZE_BYTES_MAX,
)
