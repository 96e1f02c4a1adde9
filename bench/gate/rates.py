"""The gate's error rates: how often it is alarmed by nothing, and which planted defects it finds.

    cambench gate-rates --out leaderboards/gate

Three parts: resamples of stored runs without a true difference (`bench.gate.resample`), real
re-runs of the tier in which nothing is wrong (threads, batches, seeds, instruction sets), and real
re-runs with a planted defect (`bench.gate.planted_defects`). Each step leaves a JSON file in the
work folder, so the command goes on where it stopped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import BenchError
from bench.gate.baseline import RANDOM, Baseline, load_baseline, load_run
from bench.gate.judge import (
    BETTER,
    CHANGED,
    REGRESSION,
    SAME,
    UNJUDGED,
    JudgingRules,
    Verdicts,
    judge,
)
from bench.gate.planted_defects import DEFECTS, Defect, run_planted
from bench.gate.resample import count_false_alarms, make_null
from bench.json_state import read_json_state, write_sealed_json

RESAMPLES = 2_000
"""Resamples per null."""

BOARD, MODEL = Path("leaderboards/ilsvrc-sample-1k"), "squeezenet1_1.onnxzoo_in1k"
"""Stored records of real photographs, for a null between similar methods."""

SIMILAR = {
    "grad_cam": "layer_cam",
    "grad_cam_pp": "abs_cam_init",
    "deep_lift": "integrated_gradients",
    "eigen_cam": "full_grad",
    "a_fmi": "ablation_cam",
    "saliency": "input_x_gradient",
    "sa_cam": "smooth_grad_cam_pp",
    "finer_cam": "recipro_cam",
}
"""Methods that are exchanged with each other there, image by image."""


@dataclass(frozen=True)
class HarmlessRerun:
    """A run of the tier in which nothing is wrong: other words of the command, another
    environment.
    """

    name: str
    title: str
    words: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


RERUNS = (
    HarmlessRerun("threads-1", "1 thread", environment={"OMP_NUM_THREADS": "1"}),
    HarmlessRerun(
        "threads-1-batch-7",
        "1 thread, batches of 7",
        ("--batch-size", "7"),
        {"OMP_NUM_THREADS": "1"},
    ),
    HarmlessRerun("batch-16", "batches of 16", ("--batch-size", "16")),
    HarmlessRerun("batch-64", "batches of 64", ("--batch-size", "64")),
    HarmlessRerun("batch-200", "batches of 200", ("--batch-size", "200")),
    HarmlessRerun("seed-1", "seed 1", ("--seed", "1")),
    HarmlessRerun("seed-2", "seed 2", ("--seed", "2")),
    HarmlessRerun("seed-3", "seed 3", ("--seed", "3")),
    HarmlessRerun(
        "isa-default",
        "no vector instructions in PyTorch",
        environment={"ATEN_CPU_CAPABILITY": "default"},
    ),
    HarmlessRerun(
        "isa-avx2",
        "AVX2 in PyTorch and oneDNN",
        environment={"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    ),
    HarmlessRerun("isa-sse41", "SSE4.1 in oneDNN", environment={"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    HarmlessRerun(
        "mkl-compatible",
        "MKL in compatible mode, 1 thread, batches of 33",
        ("--batch-size", "33"),
        {"MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"},
    ),
)

VERDICTS = (REGRESSION, UNJUDGED, BETTER, CHANGED, SAME)
"""The verdicts that are counted for a run, the worst first."""

Tick = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Study:
    """Where the steps work, and how large they are.

    work: folder of runs and finished steps.  limit: images, None = the tier's.  resamples: per
    null.
    """

    work: Path
    limit: int | None = None
    resamples: int = RESAMPLES
    rules: JudgingRules = field(default_factory=JudgingRules)

    def run(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.work / "runs" / name

    def load_or_make(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a step's result, from its file where it was done before with the same settings."""
        file = self.work / "steps" / f"{name}.json"
        settings = {"limit": self.limit, "resamples": self.resamples, "rules": vars(self.rules)}
        if file.is_file():
            with suppress(BenchError):  # damaged, or no step: it is done again
                known = read_json_state(file, "delete it")
                if known.get("settings") == settings:
                    return known
        made = {**make(), "settings": settings}
        write_sealed_json(file, made)
        return made

    def run_tier(self, rerun: HarmlessRerun) -> Path:
        """Run the tier as a command of its own, in its environment; what is there already is not
        run again.
        """
        folder = self.run(rerun.name)
        limit = ("--limit", str(self.limit)) if self.limit else ()
        words = ("run", "--tier", "gate", "--out", str(folder), *limit, *rerun.words)
        done = subprocess.run(
            [sys.executable, "-m", "bench", *words],
            env={**os.environ, **rerun.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"The run {rerun.name} failed: {done.stderr.strip().splitlines()[-1]}")
        return folder

    def load_reference(self) -> Baseline:
        """Return the healthy run that all others are held against."""
        return load_baseline(self.run_tier(HarmlessRerun("reference", ""))).choose()


def measure(study: Study, tick: Tick) -> dict[str, list[dict[str, Any]]]:
    """Do every step that is not done yet; return {part: rows}.

    tick(what, done, total): progress.
    """
    total = 1 + len(RERUNS) + len(DEFECTS) + 6
    tick("reference", 0, total)
    reference = study.load_reference()
    found: dict[str, list[dict[str, Any]]] = {"reruns": [], "planted": [], "resampled": []}
    for number, rerun in enumerate(RERUNS):
        tick(f"re-run: {rerun.title}", 1 + number, total)
        found["reruns"].append(
            study.load_or_make(rerun.name, partial(judge_rerun, study, reference, rerun))
        )
    for number, defect in enumerate(DEFECTS):
        tick(f"planted: {defect.title}", 1 + len(RERUNS) + number, total)
        found["planted"].append(
            study.load_or_make(defect.name, partial(judge_planted, study, reference, defect))
        )
    done = 1 + len(RERUNS) + len(DEFECTS)
    for name, title, pair in list_nulls(study, reference):
        for margin in (False, True):
            tick(f"resampled: {title}{', at the margin' * margin}", done, total)
            make = partial(measure_null, study, title, pair, margin)
            found["resampled"].append(
                study.load_or_make(f"{name}-margin" if margin else name, make)
            )
            done += 1
    tick("done", total, total)
    return found


Pair = Callable[[], tuple[Baseline, Baseline]]


def list_nulls(study: Study, reference: Baseline) -> Iterator[tuple[str, str, Pair]]:
    """Yield the pairs of runs that are exchanged: name, title, and how to load them."""
    for name, title, run in (
        ("null-seed", "two seeds of the tier", "seed-1"),
        ("null-precision", "float32 and bfloat16", "bfloat16"),
    ):
        yield name, title, partial(load_pair, study, reference, run)
    yield "null-methods", f"similar methods on photographs ({MODEL})", load_similar


def load_pair(study: Study, reference: Baseline, run: str) -> tuple[Baseline, Baseline]:
    """Return the reference and another run."""
    return reference, load_run(study.run(run), reference).choose()


def load_similar() -> tuple[Baseline, Baseline]:
    """Return the stored records of some methods, and those of similar ones under their names."""
    board = load_baseline(BOARD).choose(models=MODEL)
    frame = board.frame
    old = frame[frame["method"].isin([*SIMILAR, RANDOM])]
    new = [frame[frame["method"] == other].assign(method=name) for name, other in SIMILAR.items()]
    return Baseline(old, board.facts), Baseline(pd.concat(new), board.facts)


def measure_null(study: Study, title: str, pair: Pair, margin: bool) -> dict[str, Any]:
    """Resample a null."""
    rates = count_false_alarms(make_null(*pair()), study.rules, study.resamples, margin=margin)
    return {"title": title, "at_the_margin": margin, **rates}


def judge_rerun(study: Study, reference: Baseline, rerun: HarmlessRerun) -> dict[str, Any]:
    """Run and judge a healthy re-run."""
    run = load_run(study.run_tier(rerun), reference)
    return {
        "name": rerun.name,
        "title": rerun.title,
        **summarise_verdicts(judge(reference, run, study.rules, other_seed=True)),
    }


def judge_planted(study: Study, reference: Baseline, defect: Defect) -> dict[str, Any]:
    """Run and judge a planted defect."""
    run_planted(defect, study.run(defect.name), study.limit)
    verdicts = judge(reference, load_run(study.run(defect.name), reference), study.rules)
    return {
        "name": defect.name,
        "title": defect.title,
        "expected": defect.expected,
        **summarise_verdicts(verdicts),
    }


def summarise_verdicts(verdicts: Verdicts) -> dict[str, Any]:
    """Return what the table says of one run: exit code, cells by verdict, and the largest loss."""
    gated = verdicts.gated
    signed = gated["change"].where(gated["better"] != "lower", -gated["change"])
    share = (signed / gated["distance"].abs()).dropna()
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
    bad = gated[gated["verdict"] == REGRESSION]
    found = sorted({f"{m}: {v}" for m, v in zip(bad["method"], bad["metric"], strict=True)})
    worst = float(share.min()) if len(share) else float("nan")
    return {
        "exit_code": verdicts.exit_code,
        "cells": len(gated),
        **counts,
        "worst_change": worst,
        "found": found,
    }
