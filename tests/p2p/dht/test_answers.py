"""What one answer can cost its reader: records, signatures and time, whoever answers."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock

from p2p import Identity, PeerId, wall_time_s
from p2p.dht import owned_subkey, schema
from p2p.dht.key import key_to_bytes, record_key
from p2p.dht.record import Record, sign_record
from p2p.dht.schema import WireRecord, to_wire
from tests.p2p.dht.swarms import Liar, open_swarm

ALICE = Identity.generate(random.Random(7))


def wall_ms() -> int:
    return int(wall_time_s() * 1000)


def signed(value: bytes, sequence: int = 1, *, age_s: float = 0) -> WireRecord:
    record = Record(
        key="k",
        subkey=owned_subkey(ALICE.peer_id),
        value=value,
        sequence=sequence,
        life_ms=60_000,
        signed_at_ms=wall_ms() - int(age_s * 1000),
    )
    return to_wire(sign_record(record, ALICE), 60)


class Flooder(Liar):
    """Answers each query with the same records, or with page after page."""

    def __init__(self, records: tuple[WireRecord, ...] = (), *, page_takes_s: float = 0) -> None:
        super().__init__()
        self._records = records
        self._page_takes_s = page_takes_s
        self.pages = 0

    async def _on_find_value(self, caller: PeerId, request: schema.FindValue) -> schema.FoundValues:
        if not self._page_takes_s:
            ours = key_to_bytes(record_key("k"))
            answers = (
                schema.Found((), self._records if query.key == ours else ())
                for query in request.queries
            )
            return schema.FoundValues(wall_ms(), tuple(answers))
        await trio.sleep(self._page_takes_s)
        self.pages += 1
        page = (WireRecord(f"s{self.pages:05}", b"v", 60_000),)
        return schema.FoundValues(wall_ms(), (schema.Found((), page, more=True),))


async def test_one_question_has_one_answer(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, reader = await swarm.add("reader")
        await swarm.add_liar(Flooder((signed(b"first"), signed(b"second", 2))))
        for found in (
            await reader.get("k", subkey=owned_subkey(ALICE.peer_id)),
            (await reader.get_many(["k", "l"], subkey=owned_subkey(ALICE.peer_id)))["k"],
        ):
            assert found is not None
            assert found.value == b"first"


async def test_an_old_copy_has_only_the_life_that_its_age_allows(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        _, reader = await swarm.add("reader")
        # Signed for a minute, 15 minutes and 50 seconds ago; said to have all of its life left.
        await swarm.add_liar(Flooder((signed(b"old", age_s=950),)))
        subkey = owned_subkey(ALICE.peer_id)
        for entry in (
            await reader.get("k", subkey=subkey),
            (await reader.get_dictionary("k"))[subkey],
        ):
            assert entry is not None
            assert 0 < entry.remaining_s <= 10


async def test_one_bad_signature_is_the_end_of_an_answer(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, reader = await swarm.add("reader")
        forged = WireRecord(owned_subkey(ALICE.peer_id), b"lie", 1000, 1, 60_000, wall_ms())
        free = WireRecord("free", b"v", 60_000)
        liar = await swarm.add_liar(Flooder((free, *(forged,) * 300)))
        assert await reader.get_dictionary("k") == {}
        assert reader._client.shunned(liar.peer_id)
        # Where it is one of several, the others are believed as before.
        _, honest = await swarm.add("honest")
        await honest.put("k", b"v", subkey="mine", ttl_s=60)
        assert list(await reader.get_dictionary("k")) == ["mine"]


async def test_who_sends_its_pages_slowly_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, reader = await swarm.add("reader")
        liar = Flooder(page_takes_s=4)
        await swarm.add_liar(liar)
        begun_s = trio.current_time()
        found = await reader.get_dictionary("k")
        assert trio.current_time() - begun_s <= 21
        # What it did send is as good as anybody's.
        assert list(found) == [f"s{number:05}" for number in range(1, liar.pages + 1)]
        assert liar.pages >= 4
