"""`cambench finetune ...` and `cambench zoo train`: thin calls of the recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import BenchError
from bench.files import file_name
from bench.terminal import command_line, errors, looking, say, stoppable, training

if TYPE_CHECKING:
    from bench.data import Subset
    from bench.finetune.loop import Settings

finetune_app = typer.Typer(help="Train classifiers, and fine-tune them for attribution.", no_args_is_help=True)
zoo_app = typer.Typer(help="Train the bundled models anew.", no_args_is_help=True)

ModelOption = Annotated[str, typer.Option(help="Model to start from: bundled name, timm name or card file.")]
SubsetOption = Annotated[str, typer.Option(help="Training images; NAME[start:stop] is a part of a subset.")]
ValidationOption = Annotated[
    str | None, typer.Option(help="Held-out images that choose the best epoch [default: a tenth of --subset].")
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder for weights, card and checkpoint; goes on where it stopped.")
]
NameOption = Annotated[str | None, typer.Option(help="Name of the trained model on boards.")]
EpochsOption = Annotated[int, typer.Option(help="Passes over the training images.", min=1)]
BatchOption = Annotated[int, typer.Option(help="Images per step.", min=1)]
RateOption = Annotated[float, typer.Option(help="Learning rate of AdamW.", min=0)]
DecayOption = Annotated[float, typer.Option(help="Weight decay of AdamW.", min=0)]
PatienceOption = Annotated[int, typer.Option(help="Stop after so many epochs without a better score; 0: never.", min=0)]
SeedOption = Annotated[int, typer.Option(help="Seed of every draw.", min=0)]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
PrecisionOption = Annotated[str, typer.Option(help="Of the forward pass: auto, float32, bfloat16.")]
ShiftOption = Annotated[float, typer.Option(help="Pictures move by up to this share of their side.", min=0, max=0.5)]
SmoothingOption = Annotated[float, typer.Option(help="Share of the label spread over all classes.", min=0)]
DataRootOption = Annotated[Path | None, typer.Option(help="Where named subsets find their files.")]


@finetune_app.command(
    epilog="**Example**  \n`cambench finetune classifier --backbone resnet_small --subset tiny-imagenet-20-train "
    "--validation tiny-imagenet-20 --data-root DATA --epochs 30`"
)
def classifier(
    backbone: Annotated[str, typer.Option(help="Bundled architecture, timm name (random weights) or card file.")],
    subset: SubsetOption,
    validation: ValidationOption = None,
    out: OutOption = None,
    name: NameOption = None,
    epochs: EpochsOption = 30,
    batch_size: BatchOption = 64,
    lr: RateOption = 2e-3,
    weight_decay: DecayOption = 0.05,
    patience: PatienceOption = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    shift: ShiftOption = 0.0,
    label_smoothing: SmoothingOption = 0.02,
    data_root: DataRootOption = None,
) -> None:
    """Train a plain classifier: the original that the other recipes start from."""
    from bench.finetune.augment import Augmentation
    from bench.finetune.classifier import train_classifier

    name = name or f"{backbone}-{file_name(subset, '-')}"
    folder = out or default_folder(name)
    with training(str(folder)) as progress:
        card = train_classifier(
            backbone,
            open_subset(subset, data_root),
            folder,
            name,
            validation=open_validation(validation, data_root),
            settings=settings(epochs, batch_size, lr, weight_decay, patience, seed, precision),
            augmentation=Augmentation(shift=shift),
            label_smoothing=label_smoothing,
            device=device,
            command=command_line(),
            report=progress.epoch,
            tick=progress.step,
        )
    say_card(card)


@finetune_app.command(
    epilog="**Example**  \n`cambench finetune sa --model resnet-scenes --subset scenes-train --epochs 2`"
)
def sa(
    model: ModelOption,
    subset: SubsetOption,
    validation: ValidationOption = None,
    out: OutOption = None,
    name: NameOption = None,
    strength: Annotated[float, typer.Option("--lambda", help="How much the attention adds.", min=0)] = 1.0,
    width: Annotated[int | None, typer.Option(help="Channels of queries and keys [default: K/8].", min=1)] = None,
    epochs: EpochsOption = 10,
    batch_size: BatchOption = 64,
    lr: RateOption = 1e-3,
    weight_decay: DecayOption = 0.0,
    patience: PatienceOption = 3,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    data_root: DataRootOption = None,
) -> None:
    """Train the queries and keys of SA-CAM's attention; the classifier stays as it is."""
    import bench
    from bench.finetune.self_attention import train_self_attention

    parent = bench.load_model(model).to(device)
    name = name or f"{parent.name}-sa"
    folder = out or default_folder(name)
    with training(str(folder)) as progress:
        card = train_self_attention(
            parent,
            open_subset(subset, data_root),
            folder,
            name,
            validation=open_validation(validation, data_root),
            strength=strength,
            width=width,
            settings=settings(epochs, batch_size, lr, weight_decay, patience, seed, precision),
            command=command_line(),
            report=progress.epoch,
            tick=progress.step,
        )
    say_card(card)


@finetune_app.command(
    epilog="""**Examples**

- `cambench finetune aft --model resnet-scenes --subset scenes-train --validation scenes-val`

- `cambench finetune aft --model mobilenetv2_100 --weights FILE --subset "ilsvrc-sample-1k[:500]" --lambda 3`

- `cambench finetune aft --model resnet-scenes --subset scenes-train --control shuffled` - what masks of others do
"""
)
def aft(
    model: ModelOption,
    subset: SubsetOption,
    validation: ValidationOption = None,
    method: Annotated[str, typer.Option(help="Method whose maps TFT cuts.")] = "grad_cam",
    scope: Annotated[str, typer.Option(help="tuner: the network is frozen; full: it is trained too, slowly.")] = (
        "tuner"
    ),
    weight: Annotated[float, typer.Option("--lambda", help="Weight of the mask term.", min=0)] = 1.0,
    select: Annotated[str, typer.Option(help="How t* is chosen: official, logodds, auto.")] = "auto",
    control: Annotated[
        str, typer.Option(help="In the masks' place: none, lambda0, random, shuffled, fixed (t = 5).")
    ] = "none",
    mu: Annotated[float, typer.Option(help="Weight of the divergence from the original's predictions.", min=0)] = 0.0,
    target: Annotated[str, typer.Option(help="What the mask term compares: activations, rescaled, channel_mean.")] = (
        "activations"
    ),
    extra_masked: Annotated[bool, typer.Option("--extra-masked", help="Masked images are further examples.")] = False,
    backbone_rate: Annotated[float, typer.Option(help="Of --lr, for the network under full.", min=0)] = 0.03,
    reduction: Annotated[int, typer.Option(help="Channels per channel inside the tuner.", min=1)] = 8,
    limit: Annotated[int, typer.Option(help="Training images; 0 for all.", min=0)] = 0,
    out: OutOption = None,
    name: NameOption = None,
    epochs: EpochsOption = 6,
    batch_size: BatchOption = 64,
    lr: RateOption = 5e-3,
    weight_decay: DecayOption = 0.05,
    patience: PatienceOption = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    weights: Annotated[str | None, typer.Option(help="Weights of the model: a file, or 'pretrained'.")] = None,
    data_root: DataRootOption = None,
) -> None:
    """Activation fine-tuning: a tuner learns the activations that a search for a threshold (TFT) would leave.

    The masks are made once by the original model, on the images that it classifies correctly, and kept on disk.
    """
    from bench.finetune.aft import AftRecipe, train_aft
    from bench.models import load_model

    chosen = load_model(model, weights=weights)
    name = name or f"{file_name(chosen.name, '-')}-aft"
    folder = out or default_folder(name)
    train = open_subset(subset, data_root)
    recipe = AftRecipe(
        method=method,
        scope=scope,
        weight=weight,
        select=select,
        control=control,
        mu=mu,
        target=target,
        extra_masked=extra_masked,
        backbone_rate=backbone_rate,
        reduction=reduction,
    )
    with training(str(folder)) as progress:
        card = train_aft(
            chosen,
            train.limit(limit) if limit else train,
            folder,
            name,
            validation=open_validation(validation, data_root),
            recipe=recipe,
            settings=settings(epochs, batch_size, lr, weight_decay, patience, seed, precision),
            device=device,
            command=command_line(),
            report=progress.epoch,
            tick=progress.step,
            searching=lambda done, total: progress.step(done, total, "TFT masks"),
            warn=lambda said: errors.print(f"! {said}", style="yellow", highlight=False, soft_wrap=True, markup=False),
        )
    say_masks(card)
    say_card(card)


@finetune_app.command(
    epilog="**Example**  \n`cambench finetune abn --backbone resnet-scenes --subset scenes-train "
    "--validation scenes-val --epochs 12`"
)
def abn(
    backbone: Annotated[
        str, typer.Option(help="Trained model to start from, or bundled architecture or timm name (random weights).")
    ],
    subset: SubsetOption,
    validation: ValidationOption = None,
    out: OutOption = None,
    name: NameOption = None,
    map_kernel: Annotated[int, typer.Option(help="Side of the convolution that makes the map: 3 or 1.")] = 3,
    epochs: EpochsOption = 30,
    batch_size: BatchOption = 64,
    lr: RateOption = 2e-3,
    weight_decay: DecayOption = 0.05,
    patience: PatienceOption = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    shift: ShiftOption = 0.0,
    label_smoothing: SmoothingOption = 0.02,
    data_root: DataRootOption = None,
) -> None:
    """Train an Attention Branch Network, whose attention map weights what its last stage sees."""
    from bench.finetune.abn import train_abn
    from bench.finetune.augment import Augmentation

    name = name or f"abn-{file_name(backbone, '-')}"
    folder = out or default_folder(name)
    with training(str(folder)) as progress:
        card = train_abn(
            backbone,
            open_subset(subset, data_root),
            folder,
            name,
            validation=open_validation(validation, data_root),
            map_kernel=map_kernel,  # type: ignore[arg-type]
            settings=settings(epochs, batch_size, lr, weight_decay, patience, seed, precision),
            augmentation=Augmentation(shift=shift),
            label_smoothing=label_smoothing,
            device=device,
            command=command_line(),
            report=progress.epoch,
            tick=progress.step,
        )
    say_card(card)


@finetune_app.command(
    epilog="**Example**  \n`cambench finetune guided --model abn-scenes --maps maps/abn-scenes --scope all`"
)
def guided(
    model: Annotated[str, typer.Option(help="Attention Branch Network that the maps were edited on.")],
    maps: Annotated[Path, typer.Option(help="Folder of edited maps (`cambench edit`, `cambench finetune simulate`).")],
    scope: Annotated[str, typer.Option(help="What learns: all of the attention branch, or its final layers.")] = "all",
    objective: Annotated[str, typer.Option(help="mse of the maps, or mitsuhara: both heads' losses and maps.")] = "mse",
    gamma: Annotated[float, typer.Option(help="Weight of the maps' distance in mitsuhara.", min=0)] = 1.0,
    norms: Annotated[str, typer.Option(help="Batch norms that learn use batch or running statistics.")] = "batch",
    subset: Annotated[
        str | None, typer.Option(help="Images that the maps are of [default: the subset that they name].")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Held-out images to measure on [default: those without a map].")
    ] = None,
    out: OutOption = None,
    name: NameOption = None,
    epochs: EpochsOption = 20,
    batch_size: BatchOption = 16,
    lr: RateOption = 3e-3,
    weight_decay: DecayOption = 0.0,
    patience: PatienceOption = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    data_root: DataRootOption = None,
) -> None:
    """Teach an Attention Branch Network where to look, by edited attention maps."""
    import bench
    from bench.finetune.attention_maps import load_maps
    from bench.finetune.guided import Guidance, train_guided

    parent, edited = bench.load_model(model).to(device), load_maps(maps)
    name = name or f"{parent.name}-guided"
    folder = out or default_folder(name)
    with training(str(folder)) as progress:
        done = train_guided(
            parent,
            open_subset(subset or str(edited[0].facts["subset"]), data_root),
            edited,
            folder,
            name,
            validation=open_validation(validation, data_root),
            guidance=Guidance(scope, objective, gamma, norms=norms),  # type: ignore[arg-type]
            settings=settings(epochs, batch_size, lr, weight_decay, patience, seed, precision),
            command=command_line(),
            report=progress.epoch,
            tick=progress.step,
        )
    for line in done.lines():
        say(line)
    say_card(done.card)


@finetune_app.command(
    epilog="**Example**  \n`cambench finetune channels abn-scenes abn-scenes-guided --subset scenes-val --limit 200`"
)
def channels(
    before: Annotated[str, typer.Argument(help="Attention branch network before fine-tuning.")],
    after: Annotated[str, typer.Argument(help="The same after it.")],
    subset: Annotated[str | None, typer.Option(help="Images on which the strongest channels are taken away.")] = None,
    top: Annotated[str, typer.Option(help="How many of them, comma separated.")] = "1,3,5",
    limit: Annotated[int, typer.Option(help="Images of --subset; 0 for all.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for chart and tables [default: runs/channels/AFTER].")
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Say which classes' channels make the attention map, before and after: a chart, its numbers, an ablation."""
    import bench
    from bench.finetune.channels import compare_channels, write_channels

    counts = [part.strip() for part in top.split(",") if part.strip()]
    if not all(part.isdigit() for part in counts):
        raise BenchError(f"--top is {top!r}; give whole numbers, such as 1,3,5.")
    images = None if subset is None else bench.load_subset(subset, limit=limit or None, data_root=data_root)
    found = compare_channels(bench.load_model(before), bench.load_model(after), images, [int(n) for n in counts])
    say(str(found))
    folder = out or Path("runs") / "channels" / file_name(found.after, "-")
    for row in found.ablation.to_dict("records"):
        say(
            f"{row['model']} without its {row['removed']} strongest: top-1 {row['top1']:.1f} %, energy inside the "
            f"truth {row['energy']:.3f}, map changed by {row['change']:.3f}"
        )
    say(f"Chart and tables: {', '.join(str(path) for path in write_channels(found, folder))}")


@finetune_app.command(
    epilog="**Example**  \n`cambench finetune simulate --model abn-scenes --subset scenes-train --out maps/simulated`"
)
def simulate(
    model: Annotated[str, typer.Option(help="Model with an attention branch: bundled name or card file.")],
    subset: Annotated[str, typer.Option(help="Images with boxes or masks; NAME[start:stop] is a part of a subset.")],
    out: Annotated[Path, typer.Option(help="Folder for the simulated maps; simulated ones there are replaced.")],
    share: Annotated[float, typer.Option(help="Share of the images right in class that get a simulated map.")] = 0.1,
    soft: Annotated[
        float | None, typer.Option(help="Soft edge, standard deviation in pixels [default: 1/24 of the side].")
    ] = None,
    truth: Annotated[str | None, typer.Option(help="boxes or masks [default: masks where there are any].")] = None,
    misplaced: Annotated[
        bool, typer.Option("--misplaced", help="Only images wrong in place: less than half of the map on the object.")
    ] = False,
    device: DeviceOption = "cpu",
    data_root: DataRootOption = None,
) -> None:
    """Write simulated attention maps, from boxes or masks with soft edges, where no person draws any.

    Guided fine-tuning reads them as it reads maps drawn with `cambench edit`; each one is marked as simulated.
    """
    import bench
    from bench.finetune.simulate import KINDS, simulate_maps

    if truth is not None and truth not in KINDS:
        raise BenchError(f"Maps cannot be simulated from {truth!r}; choose one of {', '.join(KINDS)}.")
    loaded = bench.load_model(model).to(device)
    images = open_subset(subset, data_root)
    with stoppable("Stopped; some simulated maps may be written."), looking(f"{images.name}, {loaded.name}") as report:
        done = simulate_maps(loaded, images, out, share, soft, truth, misplaced, report)
    say(str(done))


@zoo_app.command("train")
def zoo_train(
    name: Annotated[str, typer.Argument(help="Bundled model to train, or 'all'.")],
    out: Annotated[Path | None, typer.Option(help="Folder for weights and card [default: the package's own].")] = None,
) -> None:
    """Train a bundled model on the generated scenes by its recipe; writes weights and card."""
    from bench.finetune.scenes import BUNDLED, train_bundled
    from bench.models.zoo import WEIGHTS_FOLDER

    for one in BUNDLED if name == "all" else [name]:
        with training("runs/zoo") as progress:
            card = train_bundled(one, out or WEIGHTS_FOLDER, report=progress.epoch, tick=progress.step)
        say_card(card)


# --- what the commands share


def default_folder(name: str) -> Path:
    """Return where a model of this name is trained."""
    return Path("runs") / "finetune" / file_name(name, "-")


def open_subset(name: str, data_root: Path | None) -> Subset:
    """Return a subset by name, path or part."""
    import bench

    return bench.load_subset(name, data_root=data_root)


def open_validation(name: str | None, data_root: Path | None) -> Subset | None:
    """Return the validation subset, where one is named."""
    return None if name is None else open_subset(name, data_root)


def settings(
    epochs: int, batch_size: int, lr: float, weight_decay: float, patience: int, seed: int, precision: str, **more: Any
) -> Settings:
    """Return the loop's settings of the options."""
    from bench.finetune.loop import PRECISIONS, Settings

    if precision not in PRECISIONS:
        raise BenchError(f"Unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}.")
    return Settings(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        patience=patience,
        seed=seed,
        precision=precision,  # type: ignore[arg-type]
        **more,
    )


def say_masks(card: Path) -> None:
    """Print how many images carried a mask, and at how many of them TFT cuts nothing."""
    from bench.models.zoo import read_card

    facts = next(iter(read_card(card).values())).get("masks")
    if facts:
        say(
            f"Masks: {facts['with_mask']} of {facts['images']} images, t* by {facts['select']}; t* = 0 on "
            f"{facts['share_t0_official']:.1%} of them by official, {facts['share_t0_logodds']:.1%} by logodds"
        )


def say_card(card: Path) -> None:
    """Print where the trained model is and how to use it."""
    say(f"Trained: {card} (give it to --models or load_model)")
