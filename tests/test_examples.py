"""Every example is short and runs as a user would run it."""

import ast
import asyncio
import inspect
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
LINES_MAX = 80
# Their imports take seconds, and the machine may be busy.
EXAMPLE_S_MAX = 120
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

pytestmark = pytest.mark.slow


def start(name: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / name)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_examples_are_short_and_use_public_names(path: Path) -> None:
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        assert len(text.splitlines()) < LINES_MAX
    # Each plug-in is a module of its own, so that none loads the others' frameworks; strategies and
    # privacy are packages of their own, too.
    public = r"(?!plugins\.|(strategies|privacy) import)"
    assert not re.search(rf"from (p2p|averaging|training)\.{public}\w", text)


def test_the_guides_show_lines_of_the_examples() -> None:
    """Each block of code below a sentence that names an example is made of its lines."""
    page = (ROOT / "docs" / "guides" / "your-loop.md").read_text("utf-8")
    blocks = re.findall(r"`examples/(\w+\.py)`[^`]*\n\n```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == page.count("```python") == 5
    for name, code in blocks:
        example = {line.strip() for line in (EXAMPLES / name).read_text("utf-8").splitlines()}
        assert [line for line in code.splitlines() if line.strip() not in example] == [], name


def test_threads() -> None:
    process = start("threads.py")
    out, _ = process.communicate(timeout=50)
    assert (process.returncode, out) == (0, "sums: [3, 6]\n")


def test_batches_and_overlap() -> None:
    process = start("batches_and_overlap.py")
    out, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    first, *steps = out.splitlines()
    assert first.startswith("join with: /ip4/127.0.0.1/tcp/")
    assert [line.split(":")[0] for line in steps] == [f"step {n}" for n in range(1, 21)]
    batches = [line.split("next batch ")[1].split(",")[0] for line in steps]
    assert batches == ["16"] * 4 + ["32"] * 5 + ["64"] * 11
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in steps]
    assert losses[-1] < 0.2 * losses[0]


def test_secure_federated() -> None:
    process = start("secure_federated.py")
    out, _ = process.communicate(timeout=EXAMPLE_S_MAX)
    assert process.returncode == 0
    *exchanges, last = out.splitlines()
    assert [line.split(":")[0] for line in exchanges] == [f"exchange {n}" for n in range(1, 16)]
    assert all(line.endswith("samples of 3 peers, whose updates nobody saw") for line in exchanges)
    assert re.fullmatch(r"accuracy (0\.[89]\d|1\.00), the same at all: True", last)


@pytest.mark.timeout(2 * EXAMPLE_S_MAX)
def test_split_learning() -> None:
    script = str(EXAMPLES / "split_learning.py")
    server = subprocess.Popen(
        [sys.executable, script, "server"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        clinic = subprocess.run(
            [sys.executable, script, "clinic", address],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            timeout=EXAMPLE_S_MAX,
        )
        assert re.fullmatch(r"accuracy 0\.[89]\d, 2\.5 MB to and fro\n", clinic.stdout)
        out, _ = server.communicate(timeout=EXAMPLE_S_MAX)
        assert (server.returncode, out.split(",")[0]) == (0, "trained on 150 batches")
    finally:
        server.kill()
        server.communicate()


@pytest.mark.timeout(2 * EXAMPLE_S_MAX)
@pytest.mark.parametrize(
    ("package", "arguments", "ending"),
    [
        ("torch", ["own_loop.py"], r"global step 60, accuracy (0\.[7-9]\d|1\.00)"),
        # A model that knows nothing has a loss of log(12) = 2.5.
        ("transformers", ["huggingface_trainer.py"], r"global step 20, loss 0\.[0-7]\d"),
        ("lightning", ["lightning_module.py"], r"global step 60, accuracy (0\.[7-9]\d|1\.00)"),
        ("torch", [*TORCHRUN, "process_group.py"], r"global step 40, loss 0\.0\d+"),
        # The wanted numbers have a variance of 0.125.
        ("torch", [*TORCHRUN, "sharded.py"], r"global step 60, loss 0\.0[0-2]\d"),
    ],
)
def test_loops_of_others(package: str, arguments: list[str], ending: str) -> None:
    pytest.importorskip(package)
    *launcher, name = arguments
    process = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / name)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=EXAMPLE_S_MAX,
    )
    assert process.returncode == 0
    assert re.fullmatch(ending, process.stdout.splitlines()[-1]), process.stdout


def test_asyncio_server() -> None:
    one, other = start("asyncio_server.py"), start("asyncio_server.py")
    try:
        assert one.stdout is not None
        assert other.stdout is not None
        at_one, at_other = one.stdout.readline().strip(), other.stdout.readline().strip()
        with urllib.request.urlopen(at_one) as answer:
            address = json.load(answer)["me"][0]
        connect = at_other.replace("/peers", f"/connect?{address}")
        with urllib.request.urlopen(urllib.request.Request(connect, method="POST")) as answer:
            assert address.endswith(json.load(answer)["connected"])
        with urllib.request.urlopen(at_other) as answer:
            assert len(json.load(answer)["peers"]) == 1
        with pytest.raises(urllib.error.HTTPError, match="502"):
            urllib.request.urlopen(urllib.request.Request(connect + "x", method="POST"))
        one.send_signal(signal.SIGINT)
        assert one.wait(20) == 0
    finally:
        for process in (one, other):
            process.kill()
            process.communicate()


def test_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    """Its cells run one after the other in a running asyncio loop, as Jupyter runs them."""
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text("utf-8"))["cells"]
    namespace: dict[str, object] = {}

    async def run_all() -> None:
        for cell in cells:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == []
                code = compile(
                    "".join(cell["source"]), "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                )
                result = eval(code, namespace)
                if inspect.isawaitable(result):
                    await result

    asyncio.run(run_all())
    assert "connected to 12D3KooW" in capsys.readouterr().out
