"""Classifiers of Hugging Face's `transformers` by name: folders, ids of the Hub, and cards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.errors import BenchError, suggestions
from bench.file_contents import file_sha256
from bench.models.explainee import Explainee
from bench.models.logits_reader import read_name
from bench.models.weights_fit import load_weights
from bench.schema import parse_json

PREFIX = "hf:"
"""What a name begins with that `transformers` loads; `hf-hub:` is timm's."""

CONFIG, TIMM_CONFIG = "architectures", "architecture"
"""What tells the two libraries' config.json apart."""


def import_transformers() -> Any:
    """Return the library; where it is not installed, that is a BenchError of one sentence."""
    try:
        import transformers
    except ImportError as error:
        raise BenchError(
            "Hugging Face networks need the library transformers, which is not installed; "
            'pip install "cambench[hf]".'
        ) from error
    return transformers


def is_whole_name(text: str) -> bool:
    """Return whether an "@" in a name belongs to the path of a folder or file."""
    return Path(text.removeprefix(PREFIX)).expanduser().exists()


def suggest_prefix(name: str) -> str:
    """Return the end of a sentence that names the prefix for what is no model's name: a folder of
    `transformers`, or an id of the Hub; "" for anything else.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return f" For a folder of transformers give {PREFIX}{name}."
    if name.count("/") == 1 and not folder.exists() and not name.startswith((".", "/", "~")):
        return f" For an id of the Hub give {PREFIX}{name} (transformers) or hf-hub:{name} (timm)."
    return ""


def from_transformers(name: str, weights: str | Path | None, layer: str | None) -> Explainee:
    """Return the classifier of a folder (`save_pretrained`) or a Hub id, `hf:PATH_OR_ID`.

    Its name is the last part of the path or id; size, mean and std are those of its image
    processor.
    """
    source = name.removeprefix(PREFIX)
    if weights is not None and str(weights) != "pretrained":
        raise BenchError(
            f"{name} brings its own weights; leave --weights out, or write a card with library "
            '"transformers" for the file.'
        )
    folder = Path(source).expanduser()
    if folder.is_file():
        raise BenchError(
            f"{folder} is a file; give the folder of config.json and preprocessor_config.json "
            "(hf:FOLDER), as save_pretrained writes it."
        )
    local = folder.is_dir()
    if not local and source.startswith((".", "/", "~")):
        raise BenchError(f"There is no folder {source}; check the path behind hf:.")
    net, processor = _load(str(folder) if local else source, name)
    model = Explainee(
        net, layer=layer, name=_name_model(source) or read_name(net), processor=processor
    )
    model.card |= {
        "library": "transformers",
        "arch": type(net).__name__,
        "file": source,
        "commit": getattr(net.config, "_commit_hash", None),
    }
    return model


def _name_model(source: str) -> str:
    """Return the last part of a path or id; of a trainer's checkpoint also the run's."""
    path = Path(source).expanduser()
    if path.name.startswith("checkpoint-") or path.name in ("", ".", ".."):
        path = path.resolve()
        return f"{path.parent.name}-{path.name}" if "checkpoint-" in path.name else path.name
    return path.name


def _load(source: str, name: str) -> tuple[Any, Any]:
    """Return network and image processor of a folder or id; code that lies beside them never runs.

    Without trust_remote_code=False, transformers asks at the terminal whether to run it.
    """
    transformers = import_transformers()
    check_config(source, name)
    with _quiet(transformers), torch.random.fork_rng(devices=[]):
        try:
            net, report = transformers.AutoModelForImageClassification.from_pretrained(
                source, output_loading_info=True, trust_remote_code=False
            )
        except Exception as error:  # the hub client, the files and the library raise their own
            _refuse_code(error, name)
            raise BenchError(
                f"transformers could not load {name} ({_first_line(error)}); check the "
                + (
                    "folder's files."
                    if Path(source).is_dir()
                    else "id and the connection, or give "
                    f"the folder of a saved network ({PREFIX}FOLDER)."
                )
            ) from error
        _check_report(report, name)
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(
                source, trust_remote_code=False
            )
        except Exception as error:
            _refuse_code(error, name)
            raise BenchError(
                f"{name} has no image processor ({_first_line(error)}); save it beside the "
                "network (image_processor.save_pretrained), or write a card with mean, std and "
                "size."
            ) from error
    return net.float().eval(), processor


def _refuse_code(error: Exception, name: str) -> None:
    """Say so where transformers stopped at Python code that lies beside the weights."""
    if "trust_remote_code" in str(error):
        raise BenchError(
            f"{name} needs Python code that lies beside its weights, which cambench does not run; "
            "load it in Python where you trust it, and register it in a plug-in."
        ) from error


def _check_report(report: Any, name: str) -> None:
    """Refuse a network with tensors that its files do not hold: they would be random."""
    for key, what in (("missing_keys", "lack"), ("mismatched_keys", "have of another shape")):
        keys = report.get(key) if isinstance(report, dict) else getattr(report, key, None)
        if keys:
            first = sorted(str(one[0] if isinstance(one, tuple) else one) for one in keys)[0]
            raise BenchError(
                f"The weights of {name} {what} {len(keys)} tensors of a classifier (such as "
                f"{first}), which would be random; give a network that was trained to classify."
            )


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line.partition(". ")[0].rstrip(".")[:200]


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep the library's bars and warnings off the terminal; errors stay exceptions."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


# --- hf: and hf-hub:


def check_config(source: str, name: str) -> None:
    """Refuse a folder or id that is timm's, with the name that is right for it."""
    found = read_hub_config(source)
    if found is not None and TIMM_CONFIG in found and CONFIG not in found:
        architecture = found[TIMM_CONFIG]
        right = (
            f"its timm name and its weights file (--models {architecture} --weights FILE)"
            if Path(source).is_dir()
            else f"hf-hub:{source}"
        )
        raise BenchError(f"{name} is a network of timm ({architecture}); give {right}.")


def check_timm_name(name: str) -> None:
    """Refuse an `hf-hub:` name of a network of `transformers`, with the name that is right."""
    source = name.removeprefix("hf-hub:")
    found = read_hub_config(source)
    if found is not None and (CONFIG in found or "model_type" in found):
        kind = found.get("model_type") or (found.get(CONFIG) or ["?"])[0]
        raise BenchError(
            f"{name} is a network of transformers ({kind}), and hf-hub: loads timm's; give "
            f"{PREFIX}{source}."
        )


def read_hub_config(source: str) -> dict[str, Any] | None:
    """Return the config.json of a folder or of a Hub id, None where there is none to be read."""
    folder = Path(source).expanduser()
    file: str | Path = folder / "config.json"
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download

        try:
            file = hf_hub_download(source.partition("@")[0], "config.json")
        except Exception:  # offline, unknown or no such file: the loader says which
            return None
    try:
        config = parse_json(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


# --- cards


def build_transformers(arch: str, kwargs: dict[str, Any]) -> nn.Module:
    """Return the untrained network of a class name and the arguments of its configuration."""
    transformers = import_transformers()
    kind = getattr(transformers, arch, None)
    if kind is None or not hasattr(kind, "config_class"):
        known = [n for n in dir(transformers) if n.endswith("ForImageClassification")]
        raise BenchError(f"transformers has no class {arch!r}.{suggestions(arch, known)}")
    with _quiet(transformers), torch.random.fork_rng(devices=[]):
        net: nn.Module = kind(kind.config_class(**kwargs))
    return net


def open_transformers_card(
    facts: dict[str, Any], entry: str, file: Path, layer: str | None
) -> Explainee:
    """Return the model of a card entry with library "transformers".

    file: a folder that `save_pretrained` wrote (arch: its class, or "auto"); or a weights file, for
    which arch and kwargs make the network.  What the card does not say of mean, std and size is the
    image processor's, beside the weights.
    """
    assumed: list[str] = []
    if file.is_dir():
        net, processor = _load_folder(facts, entry, file)
    else:
        net = _build_beside(facts, file)
        assumed += load_weights(net, file, entry, sha256=facts.get("sha256"))
        processor = _find_processor(file.parent)
    stated = {key: facts[key] for key in ("mean", "std", "size") if key in facts}
    if processor is None and len(stated) < 3:
        missing = [key for key in ("mean", "std", "size") if key not in facts]
        raise BenchError(
            f"The entry {entry!r} lacks {', '.join(missing)}, and {file.parent} has no "
            "preprocessor_config.json that says them; add them to the card."
        )
    return Explainee(
        net.eval(),
        **stated,
        layer=layer or facts.get("layer"),
        name=entry,
        parent=facts.get("parent", ""),
        card=facts | ({"assumed": assumed} if assumed else {}),
        processor=processor,
    )


def _load_folder(facts: dict[str, Any], entry: str, folder: Path) -> tuple[Any, Any]:
    weights = folder / "model.safetensors"
    if "sha256" in facts and (not weights.is_file() or file_sha256(weights) != facts["sha256"]):
        raise BenchError(
            f"The weights file {weights} is not the one its card names (sha256 differs); fetch it "
            "again."
        )
    net, processor = _load(str(folder), entry)
    if facts["arch"] not in ("auto", type(net).__name__):
        raise BenchError(
            f"The entry {entry!r} says {facts['arch']}, but {folder} holds a "
            f'{type(net).__name__}; say that, or "auto".'
        )
    return net, processor


def _build_beside(facts: dict[str, Any], file: Path) -> nn.Module:
    """Return the untrained network of a weights file: of arch and kwargs, or the config.json beside
    the file.
    """
    if facts["arch"] != "auto":
        return build_transformers(facts["arch"], facts.get("kwargs", {}))
    if not (file.parent / "config.json").is_file():
        raise BenchError(
            f'The arch "auto" needs config.json beside {file}; name the class and its kwargs.'
        )
    transformers = import_transformers()
    with _quiet(transformers), torch.random.fork_rng(devices=[]):
        try:
            config = transformers.AutoConfig.from_pretrained(
                str(file.parent), trust_remote_code=False
            )
            net: nn.Module = transformers.AutoModelForImageClassification.from_config(
                config, trust_remote_code=False
            )
        except Exception as error:  # whatever the configuration says
            _refuse_code(error, str(file.parent))
            raise BenchError(
                f"transformers cannot build the network of {file.parent} ({_first_line(error)}); "
                "check its config.json."
            ) from error
    return net


def _find_processor(folder: Path) -> Any:
    """Return the image processor that lies in a folder, None where there is none."""
    if not (folder / "preprocessor_config.json").is_file():
        return None
    transformers = import_transformers()
    with _quiet(transformers):
        try:
            return transformers.AutoImageProcessor.from_pretrained(
                str(folder), trust_remote_code=False
            )
        except Exception as error:  # whatever its file says
            _refuse_code(error, str(folder))
            raise BenchError(
                f"The image processor in {folder} cannot be read ({_first_line(error)}); check "
                "preprocessor_config.json, or write mean, std and size into the card."
            ) from error
