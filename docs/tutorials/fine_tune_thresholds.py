"""Threshold and activation fine-tuning

You cut a map where the class is best seen (TFT). Then you teach a network to leave such activations
by itself (AFT), and ask on a board whether its maps are better than those of its original.
"""

# Threshold fine-tuning (TFT) changes a map and no network. It masks the image by the map at growing
# thresholds, asks the network about each masked image, and keeps the threshold at which the class
# is most probable. In cambench it is a wrapper: `tft(grad_cam)` is Grad-CAM, cut.

import json
import subprocess
import sys
from pathlib import Path

import bench

METHODS = ["grad_cam", "tft(grad_cam)", "random"]
METRICS = ["pixel_precision", "energy_pointing_game"]

records = bench.evaluate("scenes-val[:12]", "resnet-scenes", METHODS, METRICS, calibration=0)
print(bench.leaderboard(records).report(values=["energy"]).to_markdown())

# TFT asks the network many times for each map. Activation fine-tuning (AFT) pays that price once,
# in training: a small tuner behind the last features learns to leave the activations that TFT's
# masks keep. The network itself stays frozen, so its classes hardly change. The masks are made once
# and kept on disk.


def tune(name, *words):
    """Train a tuner, and return the path of the card of the tuned network."""
    command = ["finetune", "aft", "--model", "resnet-scenes", "--subset", "scenes-train[:96]"]
    command += ["--validation", "scenes-calibration[:32]", "--epochs", "2", "--batch-size", "32"]
    command += ["--name", name, "--out", name, *words]
    print("$ cambench", *command, flush=True)
    subprocess.run([sys.executable, "-m", "bench", *command], check=True)
    return f"{name}/{name}.json"


tuned = tune("cut")

# Does the gain come from the masks, or from training longer? A control answers. `shuffled` gives
# each image the mask of another one; everything else is the same.

control = tune("control", "--control", "shuffled")
for card in (tuned, control):
    facts = next(iter(json.loads(Path(card).read_text()).values()))
    print(facts["recipe"]["control"], "top-1 before and after:", facts["held_out"]["top1"])

# The board takes the original, the tuned network and the control. It pairs each tuned network with
# its parent, image by image.

records = bench.evaluate(
    "scenes-val[:24]",
    ["resnet-scenes", tuned, control],
    ["grad_cam", "random"],
    METRICS,
    calibration=0,
)
board = bench.leaderboard(records)
board.save("board")
changes = board.tuned
own = changes[(changes["method"] == "grad_cam") & (changes["against"] == "grad_cam")]
own = own[own["metric"].isin(["energy", "pixel_ap"])]
shown = own[["model", "metric", "better", "difference", "low", "high", "n"]]
print(shown.round(3).to_string(index=False))

# The masks helped where `cut` gained and `control` did not. Ninety-six images and two epochs are
# too few to show that; [fine-tuning](../fine-tuning.md) has the recipe that was measured, and
# `board/board.md` the whole board of this script.
