"""My fine-tuned model: which map do I trust?

You fine-tuned a network. You want one method whose maps you can show, and you want to know whether
fine-tuning made the maps better.
"""

# The bundled pair `resnet-scenes` and `resnet-scenes-aft` stands for your own: the second was made
# from the first by activation fine-tuning. A card of your own names its `parent` in the same way.

import bench

METHODS = ["grad_cam", "layer_cam", "saliency", "random", "oracle"]
records = bench.evaluate(
    "scenes-val[:16]",
    ["resnet-scenes", "resnet-scenes-aft"],
    METHODS,
    ["deletion", "insertion", "pixel_precision"],
    calibration=0,
)
board = bench.leaderboard(records)

# First question: does the method look at anything at all? Every candidate must beat `random` on the
# tuned network, in what the network uses (deletion, insertion) and in where the object is.

values = ["deletion", "insertion", "pixel_ap"]
report = board.report(values=values, model="resnet-scenes-aft", reference="random")
print(report.to_markdown())

# Second question: do two kinds of evidence agree? A method that leads in deletion alone may only
# have fine grain: scattered pixels destroy more evidence than a region. Trust a method that beats
# `random` in all three columns. Where two such methods cannot be told apart, take the cheaper one.

# Third question: did fine-tuning help? `board.tuned` pairs each image before and after. The
# interval says whether the change is more than chance.

changes = board.tuned
own = changes[(changes["method"] == "grad_cam") & (changes["against"] == "grad_cam")]
shown = own[own["metric"].isin(values)][["metric", "better", "difference", "low", "high"]]
print(shown.round(3).to_string(index=False))

# If an interval holds 0, sixteen images show no difference. That is no proof of equality: use more
# images. [Fine-tuning](../fine-tuning.md) has the recipes, and
# [statistics](../statistics.md) the tests.
