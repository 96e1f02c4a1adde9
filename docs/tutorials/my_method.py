"""My method

You write a method of attribution as one function. cambench scores it beside others and says whether
the difference is more than chance.
"""

# A method takes a trace and returns one map for each image. The trace holds what one pass through
# the network gives: activations `[B,K,h,w]`, their gradients, images, logits and targets. A higher
# value is more evidence for the target class.

import bench


@bench.register_method("mine", fidelity="official", citation="We et al., 2027")
def mine(trace):
    """ReLU(sum_k max_ij(G_k) A_k). [B,H,W]."""
    weights = trace.gradients.amax((2, 3))
    return trace.upsample((weights[..., None, None] * trace.activations).sum(1).relu())


# `bench.evaluate` explains and scores. Here it takes twelve generated scenes, a bundled network and
# three methods. `random` is a control: no method should be worse. A full run takes more images and
# all methods.

records = bench.evaluate(
    "scenes-val[:12]",
    "resnet-scenes",
    ["mine", "grad_cam", "random"],
    ["deletion", "pixel_precision"],
    calibration=0,
)

# A board reduces the records to one number for each method, with an interval over the images.

board = bench.leaderboard(records)
print(board.report(values=["deletion", "pixel_ap"], reference="grad_cam").to_markdown())

# Here `mine` equals `grad_cam`: the last layer of this network is averaged, so its gradient is the
# same at every place, and the largest one is the mean. On other networks the two differ.
#
# A `+` stands behind what is better than `grad_cam`, a `-` behind what is worse. No mark: twelve
# images show no difference. The test is paired over images and corrected for the number of pairs.
#
# From the command line, the same method lies in a file of its own:
#
#     cambench run --plugin mine.py --methods "mine,cam/*,control/*" --limit 200
