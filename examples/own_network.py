"""A network of your own, trained your own way, as a model: sampled, guided, inpainted and scored."""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import langevin
from core.prediction import FlowVelocity
from core.schedule import Flow

OUT, STEPS = Path(sys.argv[1] if len(sys.argv) > 1 else "."), int(sys.argv[2] if len(sys.argv) > 2 else 3000)
torch.manual_seed(0)


# Yours: any network and any training. This one knows nothing of Langevin, and learns the velocity of a straight path.
class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(11, 64)  # ten digits, and 10 for no digit
        self.body = nn.Sequential(nn.Linear(64 + 1 + 64, 512), nn.SiLU(), nn.Linear(512, 512), nn.SiLU())
        self.out = nn.Linear(512, 64)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        known = torch.cat([x.flatten(1), time[:, None], self.label(label)], dim=1)
        return self.out(self.body(known)).view_as(x)


digits = load_digits()
data, labels = torch.tensor(digits.images).float()[:, None] / 8 - 1, torch.tensor(digits.target)
net = Net()
optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
for _ in range(STEPS):
    pick = torch.randint(len(data), (128,))
    x0, noise, time = data[pick], torch.randn(128, 1, 8, 8), torch.rand(128)
    x = torch.lerp(x0, noise, time[:, None, None, None])
    label = torch.where(torch.rand(128) < 0.1, 10, labels[pick])
    loss = (net(x, time, label) - (noise - x0)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# Ours: fourteen lines for all that a model can do.
model = langevin.wrap(net.eval(), (1, 8, 8), Flow(), FlowVelocity(), classes=10)
model.sample(count=100, steps=30).save(OUT / "digits.png")
guided = model.sample("7", count=16, guidance=2.0, sampler="dpmpp_2m")
guided.save(OUT / "sevens.png")
mask = torch.full((1, 8, 8), -1.0)
mask[:, 4:] = 1.0  # white: the lower half is generated
half = model.edit("inpaint", data[0], mask=mask, prompt="0", count=16)
half.save(OUT / "halves.png")
assert torch.equal(half.tensor[:, :, :4], data[:1, :, :4].expand(16, -1, -1, -1))
score = model.log_prob(data[:8], {"label": labels[:8]})
print(f"log p of eight real digits: {[round(v, 1) for v in score.value.tolist()]} nats")
