"""The tree keeps its own rules: short files, plain names, no loose ends, no dead links."""

import ast
import functools
import gc
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("p2p", "averaging", "training", "tools")
FOLDERS = (*PACKAGES, "tests", "benchmarks", "examples")

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
EMPTY_NAMES = {"utils", "util", "common", "base", "manager", "helpers", "misc"}
FRAGMENT_KINDS = ("added", "changed", "fixed", "removed", "security")

# Spelt in pieces, so that this file keeps the rules it checks.
LOOSE_ENDS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
MACHINE_PATHS = re.compile(
    r"(?<![\w.])/(ho" + r"me|Us" + r"ers|ro" + r"ot|wo" + r"rk)/|C:\\Us" + r"ers"
)
# Of a million nodes, those that a rule speaks of.
KINDS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.Import,
    ast.ImportFrom,
    ast.ExceptHandler,
    ast.Call,
)
MARKDOWN_LINK = re.compile(r"\[[^\]^\[]*\]\(([^)\s]+)\)")


def python_files() -> list[Path]:
    """Every source file of ours, in order."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def text_files() -> list[Path]:
    """Every file that a reader may open: code, prose and settings."""
    suffixes = {".py", ".md", ".toml", ".txt", ".yml", ".cfg"}
    here = [path for path in ROOT.iterdir() if path.suffix in suffixes or path.name == "Makefile"]
    below = [
        path
        for folder in (*FOLDERS, "docs", "changelog.d", "scripts", ".ci")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and (path.suffix in suffixes or path.suffix == "")
    ]
    return sorted(here + below)


def markdown_files() -> list[Path]:
    """Every page of prose."""
    return [path for path in text_files() if path.suffix == ".md"]


def name(path: Path) -> str:
    """The path as seen from the top of the project."""
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parsed() -> tuple[list[tuple[Path, ast.AST]], dict[Path, str | None]]:
    """Each node of these kinds of each source file's syntax tree, and what ails its docstring."""
    found: list[tuple[Path, ast.AST]] = []
    complaints = {}
    # Nothing of a million nodes is garbage; to search them for it took longer than to read them.
    gc.disable()
    try:
        for path in python_files():
            source = path.read_text("utf-8")
            tree = ast.parse(source)
            found += [(path, node) for node in ast.walk(tree) if isinstance(node, KINDS)]
            complaints[path] = docstring_complaint(source, tree)
    finally:
        gc.freeze()
        gc.enable()
    return found, complaints


def nodes() -> list[tuple[Path, ast.AST]]:
    """Each node that a rule speaks of."""
    return parsed()[0]


def test_files_are_short() -> None:
    lengths = {name(path): len(path.read_text("utf-8").splitlines()) for path in python_files()}
    assert [f"{n}: {lines} lines" for n, lines in lengths.items() if lines > FILE_LINES_MAX] == []


def test_functions_are_short() -> None:
    long = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


def docstring_complaint(source: str, tree: ast.Module) -> str | None:
    """What is wrong with a file's first words, or None."""
    docstring = ast.get_docstring(tree)
    if docstring is None:
        return "no docstring" if source.strip() else None
    sentence = docstring.split("\n\n")[0]
    if not sentence.endswith("."):
        return "does not open with a sentence"
    if re.search(r"[.!?]\s+[A-Z]", sentence):
        return "opens with more than one sentence"
    return None


def test_files_open_with_one_sentence() -> None:
    complaints = [
        f"{name(path)}: {complaint}"
        for path, complaint in parsed()[1].items()
        if complaint is not None
    ]
    assert complaints == []


def test_packages_are_not_empty_files() -> None:
    empty = [
        name(path)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if not path.read_text("utf-8").strip()
    ]
    assert empty == [], "each file of a package says what it is for"


def test_names_say_something() -> None:
    assert [name(path) for path in python_files() if path.stem in EMPTY_NAMES] == []
    folders = {parent for path in python_files() for parent in path.relative_to(ROOT).parents}
    assert sorted(str(folder) for folder in folders if folder.name in EMPTY_NAMES) == []


def catches_everything(kind: ast.expr | None) -> bool:
    """Whether an except clause of this type takes any error at all."""
    return kind is None or (
        isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"}
    )


def swallows(node: ast.AST) -> bool:
    """Whether this node makes any error vanish unseen."""
    if isinstance(node, ast.ExceptHandler):
        silent = all(
            isinstance(statement, ast.Pass | ast.Continue)
            or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            for statement in node.body
        )
        return silent and catches_everything(node.type)
    if isinstance(node, ast.Call):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return called == "suppress" and any(catches_everything(argument) for argument in node.args)
    return False


def test_no_error_is_swallowed() -> None:
    swallowed = [f"{name(p)}:{getattr(n, 'lineno', 0)}" for p, n in nodes() if swallows(n)]
    assert swallowed == []


def imported_names(node: ast.AST) -> list[str]:
    """The top-level packages that a node imports."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        return [node.module.partition(".")[0]]
    return []


def test_imports_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    required = {re.split(r"[^\w-]", line)[0].lower() for group in groups for line in group}
    distributions = packages_distributions()
    undeclared = {
        f"{name(path)}: {package}"
        for path, node in nodes()
        if path.relative_to(ROOT).parts[0] in PACKAGES
        for package in imported_names(node)
        if package not in sys.stdlib_module_names
        and package not in PACKAGES
        and not required & {distribution.lower() for distribution in distributions.get(package, [])}
    }
    assert sorted(undeclared) == []


def matches(pattern: re.Pattern[str]) -> list[str]:
    """Each line of the project's text that the pattern finds."""
    return [
        f"{name(path)}:{number}: {line.strip()}"
        for path in text_files()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_loose_ends() -> None:
    assert matches(LOOSE_ENDS) == []


def test_no_paths_of_somebodys_machine() -> None:
    assert matches(MACHINE_PATHS) == []


def test_tests_mirror_the_packages() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [
        name(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()
    ] == []
    strays = [
        name(folder)
        for package in PACKAGES
        for folder in sorted((ROOT / "tests" / package).rglob("*"))
        if folder.is_dir()
        and any(folder.glob("test_*.py"))
        and not (ROOT / folder.relative_to(ROOT / "tests")).is_dir()
    ]
    assert strays == [], "a folder of tests has the name of the folder it tests"


def test_changelog_fragments_are_well_formed() -> None:
    complaints = []
    for path in sorted((ROOT / "changelog.d").iterdir()):
        if path.name == "README.md":
            continue
        text = path.read_text("utf-8")
        if not re.fullmatch(rf"[a-z0-9-]+\.({'|'.join(FRAGMENT_KINDS)})\.md", path.name):
            complaints.append(f"{path.name}: must be named SUBJECT.KIND.md")
        if not re.fullmatch(r"[A-Z`*][^#]*[.)]\n", text) or "\n\n" in text:
            complaints.append(f"{path.name}: must be one paragraph of whole sentences")
    assert complaints == []


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+\s+(.*)$", prose, flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"\s", "-", heading) for heading in plain}


def link_complaint(page: Path, target: str) -> str | None:
    """Why a link of this page leads nowhere, or None; links to other sites are not followed."""
    if re.match(r"[a-z]+:", target):
        return None
    path_text, _, anchor = target.partition("#")
    path = (page.parent / path_text).resolve() if path_text else page
    if not path.exists():
        return f"{name(page)}: {target} does not exist"
    if anchor and path.suffix == ".md" and anchor not in anchors(path):
        return f"{name(page)}: {target} names no heading"
    return None


def test_links_lead_somewhere() -> None:
    complaints = [
        complaint
        for page in markdown_files()
        for target in MARKDOWN_LINK.findall(
            re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
        )
        if (complaint := link_complaint(page, target)) is not None
    ]
    assert complaints == []
