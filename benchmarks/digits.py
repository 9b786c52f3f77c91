"""Quality for a fixed budget: 180 seconds of processor time on one thread, on scikit-learn's 8 x 8 digits.

Each recipe is trained from scratch until its budget is spent, then draws 1,000 samples, which are measured against the
500 held-out digits. The budget is processor time, so other work on the machine does not change it.

    OMP_NUM_THREADS=1 python benchmarks/digits.py edm flow dit --seeds 0 1 [--features digits_cnn.pt]

``--features`` is a file of weights for the feature network (keys f.0, f.2, f.4, f.7 and h); without it one is trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import torch

from core.evaluation.distances import frechet, nearest_median
from core.recipe import Recipe, build, load
from core.train.loop import train
from core.train.run import Run
from image.data import digits
from image.metrics import Classifier, accuracy, train_classifier


def judge_from(path: Path | None) -> Classifier:
    """The feature network of a file, or one trained now."""
    real, _ = digits()
    assert real.labels is not None
    if path is None:
        return train_classifier(real.images, real.labels)
    names = {"f.0": "body.0", "f.2": "body.2", "f.4": "body.4", "f.7": "body.8", "h": "head"}
    state = torch.load(path, weights_only=True)
    judge = Classifier(1, 10)
    judge.load_state_dict({f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": v for key, v in state.items()})
    return judge.eval().requires_grad_(False)


def within(recipe: Recipe, seconds: float, seed: int) -> Recipe:
    """The recipe, trained until the budget is spent."""
    training = dataclasses.replace(recipe.training, seconds=seconds, steps=10**6, seed=seed)
    return dataclasses.replace(recipe, training=training)


def measure(name: str, seconds: float, seed: int, count: int, judge: Classifier) -> dict[str, object]:
    """Train, sample and measure one recipe."""
    recipe = within(build(f"image.recipes.{name}.tiny"), seconds, seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), log_every=0, save_every=0, validate_every=0, sample_every=0, tensorboard=False)
        started = time.process_time()
        loaded = load(train(recipe, run))
        spent = time.process_time() - started
    started = time.process_time()
    parts = [
        recipe.model(loaded.system).draw(seed, range(first, min(first + 250, count))) for first in range(0, count, 250)
    ]
    samples = torch.cat(parts).clamp(-1, 1)
    sampling = time.process_time() - started
    train_part, held_out = digits()
    asked = recipe.prompts.default(seed, range(count))
    result: dict[str, object] = {
        "recipe": name,
        "seed": seed,
        "steps": loaded.metadata["step"],
        "training seconds": round(spent, 1),
        "sampling seconds": round(sampling, 1),
        "frechet distance to held-out": str(frechet(judge.features(samples), judge.features(held_out.images))),
        "frechet distance to training": round(
            frechet(judge.features(samples), judge.features(train_part.images)).value, 2
        ),
        "nearest training image": str(nearest_median(samples.flatten(1), train_part.images.flatten(1), groups=50)),
    }
    if "label" in asked:
        result["read as the asked digit"] = accuracy(judge, samples, asked["label"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="edm, flow, dit, ddpm or score_sde")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--features", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge = judge_from(options.features)
    train_part, held_out = digits()
    floor = frechet(judge.features(train_part.images), judge.features(held_out.images)).value
    print(json.dumps({"floor: real training digits to held-out": round(floor, 2)}), flush=True)
    for name in options.recipes:
        for seed in options.seeds:
            print(json.dumps(measure(name, options.seconds, seed, options.count, judge)), flush=True)


if __name__ == "__main__":
    main()
