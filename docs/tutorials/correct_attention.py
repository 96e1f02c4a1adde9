"""Correct what a network looks at

You train a network with an attention map on your folder. You draw where it should have looked, and
teach it. Three figures and a board show what changed.
"""

# Run this script in a terminal, and it waits until you have drawn twenty maps. `python
# correct_attention.py 5` waits for five. Without a terminal nobody can draw: maps made from the
# boxes stand in then, and every output calls them simulated.

import csv
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

import bench

number = int(sys.argv[1]) if len(sys.argv) > 1 else 20 * sys.stdout.isatty()
cambench = [sys.executable, "-m", "bench"]


def run(*words):
    """Run a command of cambench as a shell does."""
    print("$ cambench", *words, flush=True)
    subprocess.run([*cambench, *words], check=True)


# ## Your folder
#
# Yours exists already. This one has 120 drawings of ten classes. `annotations.csv` names the class
# and the box of each image. Boxes are not needed, but with them the editor shows the worst maps
# first.

scenes, folder = bench.load_subset("scenes-train[:120]"), Path("my_folder")
(folder / "images").mkdir(parents=True, exist_ok=True)
with (folder / "annotations.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["file", "label", "x0", "y0", "x1", "y1"])
    for place, sample in enumerate(scenes):
        name = f"images/{place:03d}.png"
        Image.fromarray(sample.image).save(folder / name)
        table.writerow([name, scenes.class_names[sample.label], *sample.boxes[0]])

# ## A network with an attention map
#
# An Attention Branch Network (ABN) makes its own map and weights its features by it. It starts from
# a trained network of the same classes. Two epochs keep this script quick; the default is 30.

run(
    *("finetune", "abn", "--backbone", "resnet-scenes", "--subset", "my_folder"),
    *("--epochs", "2", "--name", "mine", "--out", "mine"),
)

# ## Draw
#
# The editor is a page on your machine. Its queue holds images that are right in class and have
# less than half of the attention on the object, the largest miss first. Paint with the brush, or
# fill a box or a lasso. Enter saves and goes on. Undo outlives a reload of the page. The key `?`
# shows how to draw with the keyboard alone.


def count_drawn():
    """Return how many maps are saved."""
    return len(list(Path("maps").glob("*.png")))


edit = ["--model", "mine/mine.json", "--subset", "my_folder"]
if number:
    words = ["edit", *edit, "--out", "maps", "--limit", str(number), "--port", "0"]
    editor = subprocess.Popen([*cambench, *words])
    while count_drawn() < number and editor.poll() is None:
        time.sleep(1)
    editor.terminate()
    editor.wait()
    print(f"{count_drawn()} of {number} drawn")
else:
    run("finetune", "simulate", *edit, "--out", "maps", "--share", "0.5")

# ## Teach
#
# Guided fine-tuning moves the network's map towards yours. Only the attention branch learns. The
# printed lines compare before and after, on your images and on others.

run(
    *("finetune", "guided", "--model", "mine/mine.json", "--maps", "maps"),
    *("--subset", "my_folder", "--epochs", "8", "--name", "taught", "--out", "taught"),
)

# ## The figures of a paper
#
# One command draws the original, edited and tuned maps side by side, the importance of the class
# channels before and after, and what else changed. `figures.md` beside them says in words what each
# one shows.

run(
    *("finetune", "figures", "mine/mine.json", "taught/taught.json", "--maps", "maps"),
    *("--subset", "my_folder", "--out", "figures"),
)

# ## The board
#
# The last step asks on images that no one drew on: are the maps of the taught network better, and
# is its accuracy still there? The board compares each network with its parent, image by image.

records = bench.evaluate(
    "scenes-val[:40]",
    ["mine/mine.json", "taught/taught.json"],
    ["attention_branch", "random"],
    ["pixel_precision", "energy_pointing_game"],
    calibration=0,
)
bench.leaderboard(records).save("board")
changes = bench.leaderboard(records).tuned
own = changes[changes["method"] == "attention_branch"]
own = own[own["metric"].isin(["energy", "pixel_ap"])]
shown = own[["metric", "better", "before", "after", "difference", "low", "high", "n"]]
print(shown.round(3).to_string(index=False))

# An interval that holds 0 shows no difference. `board/board.md` has the whole board.
# [Fine-tuning](../fine-tuning.md) has every option.
