"""The keeper by tables: whom to ask, when to renew, when to give up; and against a liar."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.nat.portmap.answers import LIFETIME_S, Failed, Failure, Granted
from p2p.nat.portmap.jobs import Ask, Job, Network
from p2p.nat.portmap.keeper import (
    CHECK_S,
    GRACE_S,
    MAP_GAP_S,
    PAUSE_AFTER_MAPPING_S_MAX,
    PAUSE_S_MAX,
    PORT_TRIES,
    State,
)
from p2p.nat.portmap.mapping import PortMapping, PortMappingProtocol
from tests.p2p.nat.portmap.driver import CAFE, HOME, PORT, REFUSED, SILENT, Driver, holding, lose


def test_all_three_are_asked_at_once() -> None:
    driver = Driver()
    assert [(job.ask, job.protocol) for job in driver.out.values()] == [
        (Ask.SEARCH, "pcp"),
        (Ask.SEARCH, "nat-pmp"),
        (Ask.SEARCH, "upnp"),
    ]
    assert driver.keeper.problem is not None
    assert "is being asked" in driver.keeper.problem


def test_pcp_is_taken_at_once() -> None:
    driver = Driver()
    assert driver.found("pcp") == ("map pcp",)
    driver.granted(Ask.MAP, "pcp")
    assert driver.mapping == PortMapping("pcp", f"/ip4/5.6.7.10/tcp/{PORT}", PORT, 3_600.0, None)
    assert driver.keeper.problem is None


def test_the_next_is_taken_as_soon_as_the_better_said_no() -> None:
    driver = Driver()
    assert driver.found("nat-pmp") == ()
    assert driver.failed(Ask.SEARCH, "pcp", SILENT) == ("map nat-pmp",)


def test_the_better_ones_get_a_moment_and_no_more() -> None:
    driver = Driver()
    assert driver.found("upnp") == ()
    assert driver.wait(GRACE_S - 0.01) == ()
    assert driver.wait(0.02) == ("map upnp",)
    # Too late to matter, unless the mapping fails.
    assert driver.found("pcp") == ()
    assert driver.failed(Ask.MAP, "upnp", REFUSED) == ("map pcp",)


def test_a_protocol_that_refuses_gives_way_to_one_that_answers_later() -> None:
    driver = Driver()
    driver.found("pcp")
    assert driver.failed(Ask.MAP, "pcp", REFUSED) == ()
    assert driver.failed(Ask.SEARCH, "nat-pmp", SILENT) == ()
    assert driver.found("upnp") == ("map upnp",)
    driver.granted(Ask.MAP, "upnp")
    assert driver.mapping is not None
    assert driver.mapping.protocol == "upnp"


def test_a_mute_router_is_asked_less_and_less_often() -> None:
    driver = Driver()
    lose(driver)
    pauses = []
    for _ in range(10):
        assert driver.keeper.state is State.WAITING
        assert driver.keeper.problem is not None
        assert "none of PCP, NAT-PMP and UPnP" in driver.keeper.problem
        begun_s = driver.now_s
        while not driver.out:
            driver.wait(0.5)
        pauses.append(driver.now_s - begun_s)
        # While it is asked again, what it said last stands.
        assert "none of PCP, NAT-PMP and UPnP" in driver.keeper.problem
        lose(driver)
    for pause_s, least_s in zip(pauses, [5, 10, 20, 40, 80, 160, 300, 300], strict=False):
        assert least_s * 0.9 - 0.5 <= pause_s <= least_s * 1.1 + 0.5
    assert max(pauses) <= PAUSE_S_MAX * 1.1 + 0.5


def test_a_refusal_is_told() -> None:
    driver = Driver()
    driver.failed(Ask.SEARCH, "pcp", SILENT)
    driver.failed(Ask.SEARCH, "upnp", SILENT)
    driver.found("nat-pmp")
    driver.failed(Ask.MAP, "nat-pmp", REFUSED)
    assert driver.mapping is None
    assert driver.keeper.problem is not None
    assert "NAT-PMP" in driver.keeper.problem
    assert "its table is full" in driver.keeper.problem


@pytest.mark.parametrize("protocol", ["pcp", "nat-pmp"])
@pytest.mark.parametrize(
    ("lifetime_s", "after_s"), [(3_600, CHECK_S), (30, 15.0), (40, 20.0), (10, 5.0)]
)
def test_renewed_at_half_of_the_lifetime_at_the_latest(
    protocol: PortMappingProtocol, lifetime_s: int, after_s: float
) -> None:
    driver = holding(protocol, lifetime_s=lifetime_s)
    assert driver.wait(after_s - 0.1) == ()
    assert driver.wait(0.2) == (f"map {protocol}",)
    driver.granted(Ask.MAP, protocol, lifetime_s=lifetime_s, epoch_s=100 + int(after_s))
    assert driver.mapping is not None
    assert driver.mapping.expires_in_s == pytest.approx(lifetime_s)
    assert driver.wait(after_s - 0.1) == ()


def test_upnp_is_looked_up_often_and_renewed_at_half_of_the_lifetime() -> None:
    driver = holding("upnp")
    begun_s, words = driver.now_s, []
    while driver.now_s - begun_s < 2_000:
        for word in driver.wait(1.0):
            words.append((driver.now_s - begun_s, word))
            ask = Ask.MAP if word == "map upnp" else Ask.CHECK
            left_s = LIFETIME_S if ask is Ask.MAP else LIFETIME_S - int(driver.now_s - begun_s)
            driver.granted(ask, "upnp", lifetime_s=left_s)
    renewals = [at_s for at_s, word in words if word == "map upnp"]
    assert len(renewals) == 1
    assert LIFETIME_S / 2 - CHECK_S <= renewals[0] <= LIFETIME_S / 2 + 2 * CHECK_S
    assert len(words) >= 2_000 / (CHECK_S + 1) - 1


def test_what_the_table_of_the_router_lost_is_mapped_at_once() -> None:
    driver = holding("upnp")
    assert driver.wait(CHECK_S) == ("check upnp",)
    assert driver.failed(Ask.CHECK, "upnp", Failed(Failure.LOST)) == ("map upnp",)
    driver.granted(Ask.MAP, "upnp")
    assert driver.mapping is not None


@pytest.mark.parametrize("protocol", ["pcp", "nat-pmp"])
def test_an_epoch_that_went_back_maps_again_at_once(protocol: PortMappingProtocol) -> None:
    driver = holding(protocol)
    assert driver.wait(CHECK_S) == (f"map {protocol}",)
    driver.granted(Ask.MAP, protocol, epoch_s=3)
    assert driver.wait(MAP_GAP_S) == (f"map {protocol}",)
    driver.granted(Ask.MAP, protocol, epoch_s=7)
    assert driver.wait(MAP_GAP_S + 1) == ()


def test_a_failed_renewal_asks_all_at_once_and_loses_the_mapping_only_when_they_fail() -> None:
    driver = holding("pcp")
    driver.wait(CHECK_S)
    assert driver.failed(Ask.MAP, "pcp", SILENT) == ("search pcp", "search nat-pmp", "search upnp")
    assert driver.mapping is not None
    lose(driver)
    assert driver.mapping is None
    assert driver.keeper.problem is not None
    # A router that could once is asked often: it may be starting.
    for _ in range(8):
        begun_s = driver.now_s
        while not driver.out:
            driver.wait(0.5)
        assert driver.now_s - begun_s <= PAUSE_AFTER_MAPPING_S_MAX * 1.1 + 0.5
        lose(driver)
    while not driver.out:
        driver.wait(0.5)
    driver.found("pcp")
    driver.granted(Ask.MAP, "pcp", epoch_s=2)
    assert driver.mapping is not None


def test_a_router_that_comes_back_with_another_protocol() -> None:
    driver = holding("pcp")
    driver.wait(CHECK_S)
    driver.failed(Ask.MAP, "pcp", SILENT)
    driver.failed(Ask.SEARCH, "pcp", SILENT)
    driver.failed(Ask.SEARCH, "nat-pmp", SILENT)
    assert driver.found("upnp") == ("map upnp",)
    driver.granted(Ask.MAP, "upnp")
    assert driver.mapping is not None
    assert driver.mapping.protocol == "upnp"


def test_a_taken_port_gives_way_to_others_a_few_times() -> None:
    driver = Driver()
    driver.failed(Ask.SEARCH, "pcp", SILENT)
    driver.failed(Ask.SEARCH, "nat-pmp", SILENT)
    driver.found("upnp")
    ports = set()
    while (Ask.MAP, "upnp") in driver.out:
        ports.add(driver.out[Ask.MAP, "upnp"].external_port)
        driver.failed(Ask.MAP, "upnp", Failed(Failure.TAKEN))
    assert PORT in ports
    assert len(ports) == 1 + PORT_TRIES
    assert driver.keeper.problem is not None
    assert "somebody else" in driver.keeper.problem


def test_another_port_that_was_free_is_kept() -> None:
    driver = Driver()
    driver.failed(Ask.SEARCH, "pcp", SILENT)
    driver.failed(Ask.SEARCH, "nat-pmp", SILENT)
    driver.found("upnp")
    assert driver.failed(Ask.MAP, "upnp", Failed(Failure.TAKEN)) == ("map upnp",)
    port = driver.out[Ask.MAP, "upnp"].external_port
    driver.granted(Ask.MAP, "upnp")
    assert driver.mapping is not None
    assert driver.mapping.external == f"/ip4/5.6.7.10/tcp/{port}"
    assert driver.mapping.internal_port == PORT
    driver.wait(CHECK_S)
    assert driver.out[Ask.CHECK, "upnp"].external_port == port


def test_another_network_starts_all_over() -> None:
    driver = holding("pcp")
    driver.keeper.on_observed("5.6.7.99")
    driver.network = CAFE
    driver.keeper.on_network_changed(driver.now_s)
    words = driver.collect()
    assert words[-3:] == ("search pcp", "search nat-pmp", "search upnp")
    assert driver.mapping is None
    assert {job.network for job in driver.out.values() if job.ask is Ask.SEARCH} == {CAFE}
    driver.found("pcp")
    driver.granted(Ask.MAP, "pcp", host="5.6.7.11", epoch_s=1)
    # What peers saw of the old network says nothing of the new one.
    assert driver.mapping is not None
    assert driver.mapping.useless_because is None


def test_another_network_is_noticed_without_being_told() -> None:
    driver = holding("pcp")
    driver.network = CAFE
    assert driver.wait(CHECK_S)[-3:] == ("search pcp", "search nat-pmp", "search upnp")


def test_a_change_that_is_none_checks_the_mapping_now_and_not_in_a_storm() -> None:
    driver = holding("pcp")
    driver.wait(MAP_GAP_S)
    words: tuple[str, ...] = ()
    for _ in range(20):
        driver.keeper.on_network_changed(driver.now_s)
        words += driver.wait(0.1)
        if driver.out:
            driver.granted(Ask.MAP, "pcp", epoch_s=100 + int(driver.now_s - 1_000))
    assert words == ("map pcp",)
    assert driver.mapping is not None


def test_a_change_ends_the_pause() -> None:
    driver = Driver()
    lose(driver)
    driver.keeper.on_network_changed(driver.now_s)
    assert driver.collect() == ("search pcp", "search nat-pmp", "search upnp")


@pytest.mark.parametrize(
    ("network", "words"),
    [(None, "no default IPv4 gateway"), (Network("5.6.7.1", "5.6.7.2"), "5.6.7.2 is public")],
)
def test_where_nobody_is_asked(network: Network | None, words: str) -> None:
    driver = Driver(network)
    assert driver.out == {}
    assert driver.wait(3_600) == ()
    assert driver.keeper.problem is not None
    assert words in driver.keeper.problem
    driver.network = HOME
    assert driver.wait(CHECK_S) == ("search pcp", "search nat-pmp", "search upnp")


@pytest.mark.parametrize(
    ("host", "observed", "words"),
    [
        ("5.6.7.10", "5.6.7.10", None),
        ("5.6.7.10", "192.168.7.1", None),
        ("5.6.7.10", "2001:4860::1", None),
        ("5.6.7.10", "nonsense", None),
        ("5.6.7.10", "5.6.7.99", "double NAT"),
        ("100.64.3.4", "5.6.7.99", "carrier-grade NAT"),
        ("192.168.0.2", None, "double NAT"),
    ],
)
def test_outer_addresses_are_judged(host: str, observed: str | None, words: str | None) -> None:
    driver = Driver()
    driver.found("pcp")
    driver.granted(Ask.MAP, "pcp", host=host, epoch_s=1)
    if observed is not None:
        driver.keeper.on_observed(observed)
    assert driver.mapping is not None
    if words is None:
        assert driver.mapping.useless_because is None
        assert driver.keeper.problem is None
    else:
        assert words in (driver.mapping.useless_because or "")
        assert words in (driver.keeper.problem or "")


def test_the_mapping_is_released_and_nothing_asked_after_it() -> None:
    driver = holding("nat-pmp")
    job = driver.keeper.release()
    assert job is not None
    assert (job.ask, job.protocol, job.external_port) == (Ask.RELEASE, "nat-pmp", PORT)
    assert driver.keeper.deadline_s is None
    assert driver.mapping is None


def test_a_mapping_on_its_way_is_released_too() -> None:
    driver = Driver()
    driver.found("pcp")
    job = driver.keeper.release()
    assert job is not None
    assert (job.ask, job.protocol) == (Ask.RELEASE, "pcp")


def test_nothing_is_released_where_nothing_was_mapped() -> None:
    assert Driver().keeper.release() is None
    assert Driver(None).keeper.release() is None


def test_late_and_double_answers_are_ignored() -> None:
    driver = holding("pcp")
    driver.wait(CHECK_S)
    job = driver.out[Ask.MAP, "pcp"]
    driver.network = CAFE
    driver.keeper.on_network_changed(driver.now_s)
    driver.collect()
    driver.keeper.on_granted(job, Granted("5.6.7.10", PORT, 3_600, 200), driver.now_s)
    assert driver.mapping is None
    search = driver.out[Ask.SEARCH, "pcp"]
    driver.found("pcp")
    driver.keeper.on_failed(search, SILENT, driver.now_s)
    assert driver.keeper.state is State.MAPPING


JOBS_AT_ONCE_MAX = 3 * (2 + PORT_TRIES) + 10


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), honesty=st.floats(0, 1))
def test_a_router_that_says_anything_at_all_is_not_asked_without_end(
    seed: int, honesty: float
) -> None:
    """Whatever it answers, at once: something is always due, and never too much."""
    rng = random.Random(seed)
    driver = Driver(seed=seed)
    answers: tuple[Callable[[Job], None], ...] = (
        lambda job: driver.keeper.on_failed(job, Failed(rng.choice(list(Failure))), driver.now_s),
        lambda job: driver.keeper.on_granted(
            job,
            Granted(
                "5.6.7.10", rng.randint(1, 65_535), rng.randint(10, 3_600), rng.getrandbits(32)
            ),
            driver.now_s,
        ),
    )
    asked = 0
    for _ in range(300):
        at_once = 0
        while driver.out:
            job = driver.out.pop(next(iter(driver.out)))
            at_once += 1
            assert at_once <= JOBS_AT_ONCE_MAX
            if job.ask is Ask.SEARCH and rng.random() < honesty:
                driver.keeper.on_found(job, driver.now_s)
            else:
                answers[job.ask is not Ask.SEARCH and rng.random() < honesty](job)
            driver.collect()
        asked += at_once
        assert driver.keeper.state in (State.HOLDING, State.WAITING, State.SEARCHING)
        assert driver.keeper.deadline_s is not None
        assert driver.keeper.deadline_s > driver.now_s
        driver.wait(driver.keeper.deadline_s - driver.now_s)
    assert asked / (driver.now_s - 1_000.0) <= JOBS_AT_ONCE_MAX / MAP_GAP_S
