"""Table and figure of a paper

You take the table and the figure of a paper from a finished run.
"""

# A run folder or a published board holds all records. Here a few images are scored in memory
# instead.

import matplotlib

matplotlib.use("Agg")

import bench

model = bench.load_model("resnet-scenes")
records = bench.evaluate(
    "scenes-val[:12]",
    model,
    ["grad_cam", "layer_cam", "saliency", "random"],
    ["deletion", "insertion"],
    calibration=0,
)
board = bench.leaderboard(records)

# `report` chooses values, methods and names. It marks what is better (+) or worse (-) than the
# reference, after Holm's correction over all pairs of the table.

report = board.report(
    values=["deletion", "insertion"],
    methods=["grad_cam", "layer_cam", "saliency"],
    names={"grad_cam": "Grad-CAM", "layer_cam": "LayerCAM", "saliency": "Saliency"},
    reference="grad_cam",
)
print(report.to_latex())

# `show` draws the figure that papers print: a row for each image, a column for each method.

subset = bench.load_subset("scenes-val[:2]")
pixels = subset.batch([0, 1], model.geometry).pixels
methods = ["grad_cam", "layer_cam", "saliency"]
maps = bench.explain(model, model.normalise(pixels), subset.labels, methods)
bench.show(pixels, maps).savefig("maps.png")

# `plot` draws the board: here the curves of deletion.

figure = board.plot("curves", methods=["grad_cam", "saliency", "random"], values=["deletion"])
figure.savefig("curves.png")

# [Tables and figures](../python.md) has all choices.
