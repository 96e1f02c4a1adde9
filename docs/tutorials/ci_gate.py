"""A gate in CI

You keep a small file of numbers. CI fails when a change makes the maps worse, and not from noise.
"""

# Three commands do the work. This script calls them as a shell does.

import subprocess
import sys


def run(*words):
    """Run a command of cambench, show its last lines, and return its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], capture_output=True, text=True, check=False
    )
    print("$ cambench", " ".join(words))
    print("\n".join((done.stdout + done.stderr).rstrip().splitlines()[-3:]))
    return done.returncode


# The first run is the state that is known to be good. In your project use `--tier gate`, which
# takes 200 images. Twenty-four images and two methods keep this script quick.

PLAN = [
    *("--subset", "scenes-val", "--models", "resnet-scenes", "--methods", "grad_cam,random"),
    *("--metrics", "pixel_precision", "--limit", "24", "--calibration", "0", "--quiet"),
]
run("run", *PLAN, "--out", "good")
run("baseline", "good", "--out", "baseline.parquet")

# Commit `baseline.parquet`. In CI, run the same plan on the changed code and check it. The exit
# code is 0 if nothing is worse, 1 at a regression, and 2 if the images cannot decide.

run("run", *PLAN, "--out", "changed")
code = run("check", "changed", "--against", "baseline.parquet", "--summary", "gate.md")
print("exit code", code)
assert code == 0

# Here nothing changed, so nothing is worse. [The gate](../gate.md) explains the verdicts, the error
# rates and the action for GitHub.
