"""The options that several commands share: declared once, and passed on as one value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.model_arguments import ModelArgsOption, NumClassesOption
from bench.cli.output import warn
from bench.errors import BenchError
from bench.gate.tier import find_tier_options

if TYPE_CHECKING:
    from bench.run.executors import Executor

WHAT, HOW, WHERE, OUTPUT = "What is scored", "How it is scored", "Where it runs", "Output"
"""Headings of the options in `--help`."""

BENCHMARK, LOOK, JUDGE, TRAIN, HOUSE = "Benchmark", "Look", "Judge", "Train", "Housekeeping"
"""Headings of the commands in `--help`."""

DEFAULT = "default"
"""The name of the lists of methods and models that a bare `cambench run` takes."""

# --- callbacks: an option that acts when it is read


def apply_tier(context: typer.Context, name: str | None) -> str | None:
    """Give a run's options the defaults of a tier; what is given on the command line still wins."""
    if name is not None:
        context.default_map = {**(context.default_map or {}), **find_tier_options(name)}
    return name


def switch_cache_off(given: bool) -> bool:
    """Turn the cache of decoded images off where the option is given."""
    if given:
        from bench.data.cache import turn_off

        turn_off()
    return given


# --- single options

PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        help="Python file that registers methods, metrics, ... (repeatable).",
        rich_help_panel=WHAT,
    ),
]
SubsetOption = Annotated[
    str,
    typer.Option(
        help="Subset name, manifest, or your data: annotations.csv, parquet, a folder per class, "
        "COCO json, Pascal VOC, a saved dataset.",
        rich_help_panel=WHAT,
    ),
]
ModelsOption = Annotated[
    str,
    typer.Option(
        help="Names, groups, timm names, hf:FOLDER_OR_ID (transformers) or card files, comma "
        "separated; NAME@LAYER: at another layer.",
        rich_help_panel=WHAT,
    ),
]
MethodsOption = Annotated[
    str,
    typer.Option(
        help="Names, groups (default, fast, all), wildcards (cam/*); -NAME leaves out.",
        rich_help_panel=WHAT,
    ),
]
MetricsOption = Annotated[
    str,
    typer.Option(
        help="Names, groups (standard, costly, all, a family), wildcards; -NAME leaves out.",
        rich_help_panel=WHAT,
    ),
]
LimitOption = Annotated[
    int, typer.Option(help="Images to score; 0 for all.", min=0, rich_help_panel=WHAT)
]
DataRootOption = Annotated[
    Path | None, typer.Option(help="Where named subsets find their files.", rich_help_panel=WHAT)
]
WeightsOption = Annotated[
    str | None,
    typer.Option(help="Weights of the one model: a file, or 'pretrained'.", rich_help_panel=WHAT),
]
SisterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sister",
        help="Sister network for the metrics of group masked: name or card file of `cambench "
        "finetune masked` (repeatable) [default: bundled].",
        rich_help_panel=WHAT,
    ),
]
ProtocolOption = Annotated[
    str,
    typer.Option(
        help="Named protocol; NAME[field=value,...] changes fields (`cambench list protocols`).",
        rich_help_panel=HOW,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        help="Seed of every draw; part of the protocol id [default: 0, or as the protocol says].",
        min=0,
        max=2**63 - 1,
        rich_help_panel=HOW,
    ),
]
CalibrationOption = Annotated[
    int | None,
    typer.Option(
        help="Images that choose box thresholds [default: half of --limit, at least 60].",
        min=0,
        rich_help_panel=HOW,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="Precision of the forward passes that metrics run: float32, auto or bfloat16. A "
        "lower one is used only if scores stay the same.",
        rich_help_panel=HOW,
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.", rich_help_panel=WHERE)]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        help="Images per forward [default: by image size].",
        min=1,
        max=1_000_000,
        rich_help_panel=WHERE,
    ),
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile", help="Fuse the networks' layers with torch.compile.", rich_help_panel=WHERE
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        help="I/N: the I-th of N runs that share the tasks; see `cambench merge`.",
        rich_help_panel=WHERE,
    ),
]
SkipUnreadableOption = Annotated[
    bool,
    typer.Option(
        "--skip-unreadable",
        help="Leave out images that cannot be read; skipped.csv in the run folder lists them.",
        rich_help_panel=WHAT,
    ),
]
NoCacheOption = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        callback=switch_cache_off,
        help="Decode every image anew; keep none (see `cambench cache`).",
        rich_help_panel=WHERE,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        help="Run folder [default: runs/SUBSET]; goes on where it stopped.", rich_help_panel=OUTPUT
    ),
]
TierOption = Annotated[
    str | None,
    typer.Option(
        callback=apply_tier,
        is_eager=True,
        help="Use a preset for all options you do not set. Available: gate.",
        rich_help_panel=WHAT,
    ),
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run, or of a committed board.")
]

PartialOption = Annotated[
    bool,
    typer.Option(
        "--partial", help="Take half a run as it is; what is written says that it is half."
    ),
]

VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print every table and note.", rich_help_panel=OUTPUT),
]

# --- groups of options


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """What `run`, `plan` and `score` share; each command says the defaults that differ."""

    subset: SubsetOption
    models: ModelsOption
    methods: MethodsOption
    metrics: MetricsOption = "standard"
    limit: LimitOption
    protocol: ProtocolOption = "cambench-1"
    calibration: CalibrationOption = None
    seed: SeedOption = None
    weights: WeightsOption = None
    sister: SisterOption = None
    num_classes: NumClassesOption = None
    model_args: ModelArgsOption = None
    data_root: DataRootOption = None
    plugin: PluginOption = None
    device: DeviceOption = "cpu"
    batch_size: BatchSizeOption = None
    skip_unreadable: SkipUnreadableOption = False
    out: OutOption = None


@dataclass(frozen=True, kw_only=True)
class RunOptions(ScoringOptions):
    """What a run is made of: the options of `run` and of `plan`."""

    subset: SubsetOption = "scenes-val"
    models: ModelsOption = DEFAULT
    methods: MethodsOption = DEFAULT
    limit: LimitOption = 36
    tier: TierOption = None
    precision: PrecisionOption = "float32"
    compiled: CompileOption = False
    shard: ShardOption = None
    no_cache: NoCacheOption = False


class Where(StrEnum):
    """Where the tasks of a run are computed."""

    local = "local"
    ray = "ray"


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions:
    """Which processes compute a run."""

    executor: Annotated[
        Where,
        typer.Option(
            "--executor",
            help="Compute in this process, or on a Ray cluster.",
            rich_help_panel=WHERE,
        ),
    ] = Where.local
    address: Annotated[
        str | None,
        typer.Option(
            help="With ray: HOST:PORT of the head node, or auto [default: a cluster of this "
            "machine].",
            rich_help_panel=WHERE,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            help="With ray: workers [default: one per GPU or core group of the cluster].",
            min=1,
            max=100_000,
            rich_help_panel=WHERE,
        ),
    ] = None
    threads_per_worker: Annotated[
        int | None,
        typer.Option(
            help="With ray: cores per worker [default: 1; with a GPU up to 8].",
            min=1,
            max=100_000,
            rich_help_panel=WHERE,
        ),
    ] = None

    def make_executor(self) -> Executor | None:
        """Return the executor of these options; None is this process."""
        if self.executor is Where.local:
            given = {
                "--address": self.address,
                "--workers": self.workers,
                "--threads-per-worker": self.threads_per_worker,
            }
            unused = [name for name, value in given.items() if value is not None]
            if unused:
                raise BenchError(
                    f"{unused[0]} is for --executor ray; add that, or leave {unused[0]} out."
                )
            return None
        from bench.run.ray_executor import RayExecutor

        return RayExecutor(self.address, self.workers, self.threads_per_worker, note=warn)
