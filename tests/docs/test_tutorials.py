"""Every tutorial runs, and prints what its text is about."""

from __future__ import annotations

import pytest
from docs_pages.tutorial_pages import FOLDER, list_tutorials, run_tutorial

PRINTS = {
    "my_method": ("mine", "grad_cam"),
    "my_network": ("small explains the layer features", "saliency"),
    "my_images": ("circle", "pointing_all", "oracle"),
    "which_map": ("pixel_ap", "difference"),
    "ci_gate": ("exit code 0",),
    "paper_table": (r"\begin{table}", "Grad-CAM"),
}
"""Words that the output of each tutorial holds."""
ELSEWHERE = {
    "correct_attention": "tests/editor/test_correcting_tutorial.py",
    "fine_tune_thresholds": "tests/finetune/test_threshold_tutorial.py",
}
"""{tutorial: the file of its own tests}."""


def test_every_tutorial_is_tested():
    assert {script.stem for script in list_tutorials()} == {*PRINTS, *ELSEWHERE}
    for name, file in ELSEWHERE.items():
        assert f'"{name}.py"' in (FOLDER.parents[1] / file).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", PRINTS)
def test_a_tutorial_runs(name, tmp_path):
    output = run_tutorial(FOLDER / f"{name}.py", tmp_path)
    assert all(words in output for words in PRINTS[name])
    if name == "paper_table":
        assert all((tmp_path / file).stat().st_size > 5_000 for file in ("maps.png", "curves.png"))


def test_a_tutorial_that_fails_is_an_error(tmp_path):
    script = tmp_path / "wrong.py"
    script.write_text('"""Wrong\n\nIt fails.\n"""\nraise SystemExit("no such thing")\n')
    with pytest.raises(RuntimeError, match="no such thing"):
        run_tutorial(script, tmp_path)
