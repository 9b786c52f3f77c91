"""How much memory loading and converting take, measured in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

from tests.support.commands import ROOT, environment

WEIGHTS = "diffusion_pytorch_model.safetensors"

MEASURE = """
import json, os, resource, sys
import torch
import app.convert
from pathlib import Path
from core.weights import mmdit, text_unet

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def work(way, folder):
    if way == "convert":
        app.convert.main([folder, folder + ".safetensors", "--to", "original"])
        return peak()
    net = mmdit.load_diffusers(Path(folder)) if way == "mmdit" else text_unet.load_diffusers(Path(folder))[0]
    loaded = peak()
    for parameter in net.parameters():
        parameter.detach().sum().item()  # reads every page
    return loaded

for way, folder in json.loads(sys.argv[1]):
    if os.fork():
        os.wait()
        continue
    work(way, folder + "-tiny")  # what the work itself needs belongs to no file
    before = peak()
    loaded, size = work(way, folder), os.path.getsize(folder + "/diffusion_pytorch_model.safetensors")
    print(way, (loaded - before) / size, (peak() - before) / size, flush=True)
    os._exit(0)
"""


def written(folder: Path, kind: type[nn.Module], dtype: torch.dtype, config: dict[str, object]) -> None:
    """A folder of diffusers."""
    with torch.device("meta"):
        net = kind(**config)
    folder.mkdir()
    save_file({name: torch.full(v.shape, 0.5, dtype=dtype) for name, v in net.state_dict().items()}, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps({"_class_name": kind.__name__, **config}))


def test_memory_stays_near_the_size_of_the_file(tmp_path: Path) -> None:
    """Loading a file of 100 MB, then using every parameter of it, and converting it take at most 1.15 of its size."""
    sizes = {"cross_attention_dim": 768, "attention_head_dim": 8}
    common = {"joint_attention_dim": 1024, "pooled_projection_dim": 768, "pos_embed_max_size": 48, "sample_size": 32}
    for end, widths, layers, heads in (("", (64, 128, 256, 256), 7, 8), ("-tiny", (32, 32, 32, 32), 1, 1)):
        config = {**sizes, "block_out_channels": widths}
        written(tmp_path / f"unet{end}", UNet2DConditionModel, torch.float32, config)
        config = {**common, "num_layers": layers, "num_attention_heads": heads, "caption_projection_dim": 64 * heads}
        written(tmp_path / f"mmdit{end}", SD3Transformer2DModel, torch.float16, config | {"attention_head_dim": 64})
    unet, mmdit = tmp_path / "unet", tmp_path / "mmdit"
    jobs = [("unet", str(unet)), ("mmdit", str(mmdit)), ("convert", str(unet)), ("convert", str(mmdit))]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(jobs)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line.split() for line in done.stdout.splitlines() if line.startswith(("unet ", "mmdit ", "convert "))]
    assert [job for job, *_ in found] == [job for job, _ in jobs], done.stdout + done.stderr
    for job, loading, used in found:
        assert 0.01 < float(loading) <= 1.15 and 0.5 < float(used) <= 1.15, (job, loading, used)
