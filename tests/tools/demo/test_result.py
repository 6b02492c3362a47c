"""The demo's verdict, its JSON object and its summary of rounds."""

import json

import pytest
from rich.console import Console

from tests.tools.demo.test_story import begun, finished, play_to, started, step_event
from tools.demo.result import make_result, summarize_rounds
from tools.demo.story import Story
from tools.demo.view import print_result, render


def ended(hashes: tuple[str, str, str] = ("aa", "aa", "aa"), accuracy: float = 0.98) -> Story:
    """A story that reached its end."""
    story = begun()
    play_to(story, 50)
    story.on_exit("trainer-3", -9)
    story.on_event("trainer-4", started("trainer-4"))
    for name, parameter_hash in zip(("trainer-1", "trainer-2", "trainer-4"), hashes, strict=True):
        story.on_event(name, finished(100, parameter_hash, accuracy))
        story.on_exit(name, 0)
    assert story.is_over
    return story


def test_the_object_of_a_demo_that_went_well() -> None:
    content = json.loads(json.dumps(make_result(ended(), seconds=12.3456).to_json()))
    assert sorted(content) == ["accuracy", "hashes", "peers", "rounds", "seconds", "steps"]
    assert content["accuracy"] == 0.98
    assert content["steps"] == 100
    assert content["seconds"] == 12.35
    assert content["hashes"] == {f"id of trainer-{number}": "aa" for number in (1, 2, 4)}
    assert [peer["ended"] for peer in content["peers"]] == [
        "finished",
        "finished",
        "killed",
        "finished",
    ]
    assert sorted(content["peers"][3]) == [
        "ended",
        "last_step",
        "peer_id",
        "role",
        "samples",
        "started_step",
    ]
    assert content["rounds"][0] == {
        "step": 1,
        "members": ["a", "b"],
        "fractions": {"a": 1.0, "b": 1.0},
        "seconds": 0.05,
        "succeeded": True,
    }


@pytest.mark.parametrize(
    ("story", "problem"),
    [
        (ended(hashes=("aa", "aa", "bb")), "the peers hold 2 different sets of parameters"),
        (ended(accuracy=0.9), "the accuracy is 90.0%, under 96%"),
        (begun(), "no trainer finished"),
    ],
)
def test_what_is_ill_is_said(story: Story, problem: str) -> None:
    assert make_result(story, seconds=1).problem == problem


def test_rounds_with_the_same_members_are_one_line() -> None:
    story = begun()
    both = ["id of trainer-1", "id of trainer-2"]
    for number in (1, 2, 3):
        story.on_event("trainer-1", step_event(number, both))
    story.on_event("trainer-1", step_event(4, ["a stranger's id"]))
    assert summarize_rounds(story) == [
        "steps 1–3: trainer-1, trainer-2 (50 ms each)",
        "step 4: ger's id (50 ms each)",
    ]


@pytest.mark.parametrize("well", [True, False])
def test_people_see_the_verdict(well: bool) -> None:
    story = ended() if well else ended(hashes=("aa", "bb", "aa"))
    screen = Console(record=True, width=120)
    screen.print(render(story))
    print_result(screen, story, make_result(story, seconds=3))
    text = screen.export_text()
    assert "trainer-4 (late)" in text
    assert ("hold the same parameters" in text) is well
    assert ("2 different sets of parameters" in text) is not well
