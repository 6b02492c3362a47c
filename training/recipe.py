"""A run described in TOML: what is trained, on what, with what, and for how long.

Reading is strict. A wrong word in a recipe must not turn into a default that nobody asked for, so
each key is checked by itself and a complaint names the file, the key and what is allowed there.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from training.errors import RecipeError
from training.recipe_rules import check_together

RECIPES = Path(__file__).parent / "recipes"
RECIPE_SIZE_BYTES_MAX = 1 << 20  # a recipe is a page of text; larger is some other file

S = TypeVar("S", bound=msgspec.Struct)

RUN_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

RunName = Annotated[
    str,
    Meta(
        pattern=RUN_PATTERN,
        description="a name of at most 64 letters, digits, dots, dashes and underscores",
    ),
]
Factory = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][\w.-]*(:[A-Za-z_]\w*)?$",
        description='a built-in name such as "digits", or "module:function" of your own',
    ),
]
Count = Annotated[int, Meta(ge=1, le=10**9, description="a whole number from 1 to 1 000 000 000")]
Seed = Annotated[int, Meta(ge=0, lt=2**32, description="a whole number from 0 to 4 294 967 295")]
Options = Annotated[dict[str, Any], Meta(description="a table of its named arguments")]


class OptimizerRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """The optimizer that each peer applies to the averaged gradient."""

    name: Annotated[
        Literal["sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "lamb", "lars"],
        Meta(description="one of sgd, adam, adamw, nadam, radam, rmsprop, adagrad, lamb and lars"),
    ]
    """One of PyTorch's optimizers, in lower case, or one for large batches: lamb or lars."""
    options: Annotated[
        dict[str, Any], Meta(description="a table of that optimizer's arguments, as { lr = 0.1 }")
    ] = msgspec.field(default_factory=dict)
    """Its arguments, such as the learning rate."""


class ScheduleRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How the learning rate goes, by the global step: training/schedule.py."""

    name: Annotated[
        Literal["constant", "linear", "cosine"],
        Meta(description="one of constant, linear and cosine"),
    ]
    """What happens after the warm-up: the rate stays, or falls in a line or as half a cosine."""
    warmup: Annotated[int, Meta(ge=0, le=10**9, description="a whole number from 0")] = 0
    """Global steps in which the rate rises to that of the optimizer's options."""
    steps: Annotated[int, Meta(ge=0, le=10**9, description="a whole number from 0")] = 0
    """Global steps until it has fallen, the warm-up included; 0 takes the recipe's."""
    final: Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")] = 0.0
    """What is left of the rate at the end, as a share of it."""


class BatchRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How the global batch changes on the way; it begins with the recipe's `global_batch`."""

    name: Annotated[Literal["ramp", "noise-scale"], Meta(description="one of ramp and noise-scale")]
    """It goes to another size in so many steps, or follows the gradient noise as measured."""
    options: Options = msgspec.field(default_factory=dict)
    """Of training.RampBatch or training.NoiseScaleBatch, but for `first`."""


class StrategyRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """Each peer takes steps of its own, and the swarm exchanges from time to time."""

    name: Annotated[
        Literal[
            "local-sgd",
            "diloco",
            "streaming-diloco",
            "elastic",
            "leader",
            "federated",
            "fedprox",
            "scaffold",
        ],
        Meta(
            description="one of local-sgd, diloco, streaming-diloco, elastic, leader, federated, "
            "fedprox and scaffold"
        ),
    ]
    """One of training.strategies."""
    options: Options = msgspec.field(default_factory=dict)
    """That strategy's."""
    secure: Annotated[bool, Meta(description="true or false")] = False
    """Exchanges are secure sums: all learn the mean, and nobody the update of a single peer."""
    value_max: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="a number above 0")
    ] = None
    """The largest element of an update that fits into a secure sum; None: 8, or what the noise of
    [privacy] asks for."""


class PrivacyRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """What others may learn from this peer: about one example, or with a strategy about all."""

    clip: Annotated[float, Meta(gt=0, description="a number above 0")]
    """The longest that one example's gradient, or one peer's update, may be (L2)."""
    epsilon: Annotated[float, Meta(gt=0, description="a number above 0")]
    """What the whole run may spend; the run ends before it would spend more."""
    delta: Annotated[float, Meta(gt=0, lt=1, description="a number between 0 and 1")] = 1e-5
    """The probability with which the promise may fail."""
    noise: Annotated[Annotated[float, Meta(gt=0)] | None, Meta(description="a number above 0")] = (
        None
    )
    """The noise multiplier; None: as little as epsilon allows for the recipe's steps."""
    peers: Annotated[int, Meta(ge=1, le=10**4, description="a whole number from 1 to 10 000")] = 1
    """So many add a share of the noise to each sum; 1: each adds the whole noise by itself."""
    tolerated_drops: Annotated[int, Meta(ge=0, description="a whole number from 0")] = 0
    """So many of them may be missing, or be in league with each other."""
    copies: Annotated[
        Annotated[int, Meta(ge=1, le=10**4)] | None,
        Meta(description="a whole number from 1 to 10 000"),
    ] = None
    """At most so many peers hold the same example, as with built-in data all do; None: `peers`."""
    samples_at_once: Count = 64
    """Samples whose gradients are in memory at the same time."""


class SplitRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """The model is cut: clients compute its first layers, a server the others (training.split)."""

    at: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...],
        Meta(min_length=1, max_length=2, description="one or two numbers of layers, as [3]"),
    ]
    """The server's first layer, and perhaps the first one after its last, which stays with the
    clients as the labels do then. The model must be a torch.nn.Sequential."""
    input_shape: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...],
        Meta(min_length=1, max_length=8, description="a list of sizes, as [1, 8, 8]"),
    ]
    """Of one sample; the server loads no data and so cannot know it."""
    codec: Annotated[str, Meta(max_length=64, description="a dtype or a codec's name")] = ""
    """How activations and gradients travel; empty: as the model computes."""
    window: Annotated[int, Meta(ge=1, le=64, description="a whole number from 1 to 64")] = 1
    """Steps on their way at once."""
    client_weights: Annotated[
        Literal["own", "peers", "server"], Meta(description='"own", "peers" or "server"')
    ] = "own"
    """Whether each client keeps its own first layers, or hands them on after each turn."""
    turn: Count = 50
    """Steps of one turn, where client weights go round."""
    extra_loss: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$",
            description='"module:function", a loss of inputs and activations',
        ),
    ] = ""
    """What clients add to the loss, such as NoPeek's distance correlation; empty: nothing."""
    alpha: Annotated[float, Meta(ge=0, lt=1, description="a number from 0 to below 1")] = 0.0
    """Its part of the whole loss."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """One run: every peer that trains together uses the same recipe."""

    run: RunName
    """Peers of one run find each other by this name."""
    model: Factory
    """Returns a torch.nn.Module; for labelled data one that gives a score per class."""
    data: Factory
    """Returns a training.data.LabelledData, or a training.task.Task of any other kind."""
    optimizer: OptimizerRecipe
    micro_batch: Count
    """Samples that one peer computes at a time."""
    steps: Count
    """The run ends after so many global steps; with a strategy, after so many exchanges."""
    global_batch: Annotated[
        Annotated[int, Meta(ge=1, le=10**9)] | None,
        Meta(description="a whole number from 1 to 1 000 000 000"),
    ] = None
    """Samples that all peers together put into one step, or into the first one if a `batch` says
    how that changes; None with a strategy."""
    batch: BatchRecipe | None = None
    """How the global batch changes; None keeps it."""
    lr_rule: Annotated[
        Literal["constant", "linear", "sqrt"],
        Meta(description='"constant", "linear" or "sqrt"'),
    ] = "constant"
    """How the learning rate follows a batch that changes: training/learning_rate.py."""
    delayed: Annotated[bool, Meta(description="true or false")] = False
    """Average while the next global batch is computed, on parameters one step old."""
    reaverage_every: Annotated[
        int, Meta(ge=0, le=10**9, description="a whole number from 0 to 1 000 000 000")
    ] = 0
    """Average parameters, buffers and moments after every so many global steps; 0: never."""
    strategy: StrategyRecipe | None = None
    """Steps of one's own instead of a global batch."""
    privacy: Annotated[
        PrivacyRecipe | None, Meta(description="a table with clip, epsilon and perhaps more")
    ] = None
    """Noise that hides each example, or with a strategy each peer's data; None adds none."""
    split: SplitRecipe | None = None
    """A server and clients instead of peers that all have the whole model."""
    model_options: Options = msgspec.field(default_factory=dict)
    """Arguments of the model's function."""
    data_options: Options = msgspec.field(default_factory=dict)
    """Arguments of the data's function."""
    seed: Seed = 0
    """Of the initial parameters, and of the order in which peers draw their samples."""
    checkpoint_every: Count = 100
    """Global steps from one checkpoint to the next, where a checkpoint folder is given."""
    dtype: Annotated[Literal["float32", "float64"], Meta(description='"float32" or "float64"')] = (
        "float32"
    )
    """Of parameters, inputs and gradients."""
    schedule: Annotated[
        ScheduleRecipe,
        Meta(description="a table with a name and perhaps warmup, steps and final"),
    ] = ScheduleRecipe(name="constant")
    """How the learning rate goes."""
    clip_norm: Annotated[float, Meta(ge=0, description="a number of at least 0")] = 0.0
    """The averaged gradient is scaled down to this length (L2) where it is longer; 0 never."""
    codec: Annotated[
        str | None,
        Meta(
            description='the name of a codec, such as "int8-block", "topk:0.01" or "powersgd:4", '
            'or "auto"'
        ),
    ] = None
    """What compresses gradients, or what a strategy exchanges; None sends them as they are."""
    downlink_codec: Annotated[
        str | None, Meta(description='the name of a codec, such as "int8-block" or "topk:0.05"')
    ] = None
    """What compresses the means; None: the same if it keeps all values, else int8-block."""
    error_feedback: Annotated[
        Literal["none", "ef", "ef21", "ef21-momentum"],
        Meta(description="one of none, ef, ef21 and ef21-momentum"),
    ] = "ef"
    """How that which the codec loses comes to later rounds."""
    codec_error_max: Annotated[
        float, Meta(gt=0, le=1, description="a number above 0 and at most 1")
    ] = 0.02
    """What the codec "auto" may lose of a vector's length; at 0.02 it goes down to int8-block."""
    codec_elements_min: Count = 4096
    """Tensors of fewer elements are sent as they are, and so are those of one dimension with fewer
    than 16 times as many."""
    ema_decay: Annotated[float, Meta(ge=0, lt=1, description="a number from 0 to below 1")] = 0.0
    """Judge a running mean of the parameters that decays so in each global step; 0 keeps none."""


def builtin_recipes() -> tuple[str, ...]:
    """The names of the recipes that ship with manyhands."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def load_recipe(name_or_path: str) -> Recipe:
    """Read a built-in recipe by its name, or any other by the path of its TOML file.

    A name may be cut off at a dash where that is clear: split is split-digits.

    Raises:
        RecipeError: there is no such recipe, or its text is not a valid one.
    """
    builtin, path = builtin_recipes(), Path(name_or_path)
    longer = [name for name in builtin if name.startswith(f"{name_or_path}-")]
    if name_or_path in builtin:
        path = RECIPES / f"{name_or_path}.toml"
    elif len(longer) == 1 and not path.exists():
        path = RECIPES / f"{longer[0]}.toml"
    try:
        with path.open("rb") as file:
            content = file.read(RECIPE_SIZE_BYTES_MAX + 1)
    except FileNotFoundError as exc:
        known = ", ".join(builtin_recipes())
        raise RecipeError(
            f"{name_or_path}: there is no such recipe; built in: {known}; "
            "any other is given by the path of its TOML file"
        ) from exc
    except OSError as exc:
        raise RecipeError(f"{path}: cannot be read ({exc.strerror})") from exc
    if len(content) > RECIPE_SIZE_BYTES_MAX:
        raise RecipeError(f"{path}: is larger than 1 MiB and thus not a recipe")
    return parse_recipe(content, source=str(path))


def parse_recipe(content: bytes, *, source: str) -> Recipe:
    """Make a recipe from TOML text; `source` names it in complaints.

    Raises:
        RecipeError: the text is not valid TOML, or a key is unknown, missing or has a wrong value.
    """
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise RecipeError(f"{source}: is not UTF-8 text (byte {exc.start})") from exc
    except tomllib.TOMLDecodeError as exc:
        raise RecipeError(f"{source}: is not valid TOML: {exc}") from exc
    return _recipe(table, source=source)


def override(recipe: Recipe, changes: Mapping[str, object], *, source: str) -> Recipe:
    """The recipe with some keys replaced; those whose new value is None stay as they are.

    Raises:
        RecipeError: a new value is not allowed for its key.
    """
    wanted = {key: value for key, value in changes.items() if value is not None}
    return _recipe(msgspec.to_builtins(recipe) | wanted, source=source)


def _recipe(table: Mapping[str, object], *, source: str) -> Recipe:
    """Check each key by itself, and then that they go together."""
    recipe = _checked(Recipe, table, source=source, prefix="")
    check_together(recipe, source=source)
    return recipe


def _checked(kind: type[S], table: Mapping[str, object], *, source: str, prefix: str) -> S:
    """Convert a table key by key, so that the first wrong key can be named."""
    types = get_type_hints(kind, include_extras=True)
    for key in table:
        if key not in types:
            near = difflib.get_close_matches(key, types, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise RecipeError(
                f"{source}: {prefix}{key}: is not a key of a recipe{meant}; "
                f"allowed: {', '.join(prefix + name for name in types)}"
            )
    values: dict[str, object] = {}
    for field in msgspec.structs.fields(kind):
        name = field.name
        if name not in table:
            if field.required:
                raise RecipeError(
                    f"{source}: {prefix}{name}: is missing; it must be {_allowed(types[name])}"
                )
            continue
        value = table[name]
        inner = _struct(types[name])
        if isinstance(value, Mapping) and inner is not None:
            values[name] = _checked(inner, value, source=source, prefix=f"{name}.")
            continue
        try:
            values[name] = msgspec.convert(value, types[name])
        except msgspec.ValidationError as exc:
            raise RecipeError(
                f"{source}: {prefix}{name}: must be {_allowed(types[name])}, not {value!r}"
            ) from exc
    return kind(**values)


def _struct(annotation: Any) -> type[msgspec.Struct] | None:
    """The kind of table that a key holds, or None for any other value."""
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if isinstance(kind, UnionType):
        # A table that may be left out.
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def _allowed(annotation: object) -> str:
    """What a key's annotation allows, in words."""
    if get_origin(annotation) is Annotated:
        for part in get_args(annotation):
            if isinstance(part, Meta) and part.description:
                return part.description
    return "a table with name and options"
