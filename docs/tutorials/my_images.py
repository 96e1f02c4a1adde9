"""My images

You score methods on your own folder of images, with or without boxes.
"""

# The simplest layout is a folder for each class. This script makes such a folder with a few
# drawings; yours exists already.

from pathlib import Path

from PIL import Image, ImageDraw

import bench

folder = Path("my_folder")
for place, (name, colour) in enumerate([("circle", "orange"), ("square", "teal")]):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(3):
        image = Image.new("RGB", (96, 96), "grey")
        box = (20 + 8 * number, 24, 60 + 8 * number, 64)
        draw = ImageDraw.Draw(image)
        (draw.ellipse if place == 0 else draw.rectangle)(box, fill=colour)
        image.save(folder / name / f"{number}.png")

# `load_subset` recognises the layout and says what it assumed. One image in five is set aside to
# choose box thresholds, so five of the six are scored.

subset = bench.load_subset(folder)
print(subset.class_names, "labels:", [int(label) for label in subset.labels])

# Masks make localisation possible. In this layout they lie in `masks/CLASS/NAME.png`, white on the
# object. COCO, Pascal VOC, ImageNet-S, CSV tables and Hugging Face datasets are read as well.

for name in ("circle", "square"):
    (folder / "masks" / name).mkdir(parents=True, exist_ok=True)
    for number in range(3):
        image = Image.new("L", (96, 96), 0)
        box = (20 + 8 * number, 24, 60 + 8 * number, 64)
        draw = ImageDraw.Draw(image)
        (draw.ellipse if name == "circle" else draw.rectangle)(box, fill=255)
        image.save(folder / "masks" / name / f"{number}.png")

subset = bench.load_subset(folder)

# The network must have the classes of the folder, in its order. This one has random weights, so
# its numbers mean nothing; the run is the same for a trained one.

model = bench.load_model("resnet18", num_classes=2)
records = bench.evaluate(subset, model, ["grad_cam", "oracle"], ["pointing_game"], calibration=0)
print(bench.leaderboard(records).report(values=["pointing_all"]).to_markdown())

# The oracle draws the truth itself and hits every image. If it does not, the masks are wrong.
# [Images, labels, boxes, masks](../data.md) describes every layout and what is refused.
