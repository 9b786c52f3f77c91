"""Train a model, watch it sample, keep the samples: `python examples/train.py FOLDER STEPS`."""

import sys
from pathlib import Path

import langevin

OUT, STEPS = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own"), int(sys.argv[2] if len(sys.argv) > 2 else 2000)

# A run that was stopped goes on where it was; one that is done is only opened.
model = langevin.train("flow", OUT, "tiny", width=24, steps=STEPS)

samples = model.sample("3,7", count=64, sampler="unipc", steps=12, on_step=lambda step: print(".", end="", flush=True))
print(samples.save(OUT / "samples.png"))
