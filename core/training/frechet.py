"""The Fréchet distance between two sets of pictures, in the features of a small classifier that is trained here.

It is the distance of FID (arXiv 1706.08500) with another network than Inception: its values compare with one another
and with no published ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class Classifier(nn.Module):
    """Tells the captions of pictures (B, D), 3 side side numbers each; `features` are those it decides by."""

    def __init__(self, side: int, captions: int, width: int = 32) -> None:
        super().__init__()
        self.side = side
        self.body = nn.Sequential(
            *(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU()),
        )
        cells = (-(-side // 4)) ** 2
        self.neck = nn.Linear(2 * width * cells, 64)
        self.head = nn.Linear(64, captions)

    def features(self, x_BD: Tensor) -> Tensor:
        """(B, 64)."""
        return self.neck(self.body(x_BD.view(-1, 3, self.side, self.side)).flatten(1))

    def forward(self, x_BD: Tensor) -> Tensor:
        """Scores (B, captions)."""
        return self.head(nnf.relu(self.features(x_BD)))


def trained_classifier(x_ND: Tensor, caption_N: Tensor, side: int, steps: int = 400, batch: int = 64) -> Classifier:
    """The same for the same pictures."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    net = Classifier(side, int(caption_N.max()) + 1)
    torch.random.set_rng_state(state)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(x_ND), (batch,), generator=generator)
        # A little noise, or the features see the finest noise of generated pictures and nothing else.
        x = x_ND[rows] + 0.1 * torch.randn((batch, x_ND.shape[1]), generator=generator)
        loss = nnf.cross_entropy(net(x), caption_N[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def frechet_distance(first_BF: Tensor, second_BF: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) of two sets of features, two rows at least in each."""
    a, b = (f.double() for f in (first_BF, second_BF))
    cov_a, cov_b = (f.T.cov() for f in (a, b))
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = vectors * values.clamp(min=0.0).sqrt() @ vectors.T
    root = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0.0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2.0 * root
    return max(float(apart), 0.0)
