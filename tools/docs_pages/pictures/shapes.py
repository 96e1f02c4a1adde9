"""Pictures of metrics that look at the map alone, or at what it cost."""

from __future__ import annotations

from matplotlib.figure import Figure

from docs_pages.pictures.stage import draw_heat, finish_chart, load_stage, make_axes, picture

METHODS = ("saliency", "grad_cam", "constant")
COUNTED = ("saliency", "grad_cam", "integrated_gradients", "score_cam", "ablation_cam")


@picture("complexity")
def draw_complexity() -> Figure:
    """Maps from concentrated to spread out, with their entropy, Gini index and effective share."""
    stage = load_stage()
    figure, axes = make_axes(4)
    for one, method in zip(axes, ("power(saliency)", *METHODS), strict=True):
        scores = stage.score(method, "complexity")
        words = [f"{name} {float(scores[name]):.2f}" for name in ("entropy", "gini")]
        share = f"share {float(scores['effective_share']):.2f}"
        draw_heat(one, stage.map(method), "\n".join([method, *words, share]))
    return figure


@picture("cost")
def draw_cost() -> Figure:
    """Passes through the whole network (forward and backward) and through its head alone that five
    methods take for one map, on a logarithmic axis.
    """
    from bench.methods import METHODS as REGISTERED

    stage = load_stage()
    figure, axes = make_axes(0, wide=4)
    chart, places = axes[0], range(len(COUNTED))
    counts = [REGISTERED.get(name).explain_counted(stage.trace())[1].counts for name in COUNTED]
    whole = [one.forwards + one.backwards for one in counts]
    heads = [one.head_forwards + one.head_backwards for one in counts]
    chart.barh([place - 0.2 for place in places], whole, height=0.38, label="whole passes")
    chart.barh([place + 0.2 for place in places], heads, height=0.38, label="head passes")
    chart.set_yticks(list(places), COUNTED)
    chart.set_xscale("symlog", linthresh=1)
    chart.set_xlim(0, None)
    chart.invert_yaxis()
    chart.legend(fontsize=7, frameon=False)
    finish_chart(chart, "passes per image", "")
    return figure
