"""Starts of B A that come from the base's own weights: PiSSA, OLoRA, CorDA, EVA, LoftQ, written out for one layer.

Weights are [out, in], A is [r, in], B is [out, r]; everything is float32 at the end. The signs of singular vectors are
made the same everywhere: libraries leave them open.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_DAMPING = 0.01
"""Of CorDA's covariance, in shares of its mean variance: what was never seen must not be divided by (2406.05223)."""


class Start(NamedTuple):
    """A and B of one layer before the first step."""

    a: Tensor
    """[r, in], float32."""
    b: Tensor
    """[out, r], float32."""


class Inputs(NamedTuple):
    """What a layer was given, summed over tokens."""

    moment: Tensor
    """Sum of x x^T, [in, in]."""
    total: Tensor
    """Sum of x, [in]."""
    tokens: int


class Directions(NamedTuple):
    """The principal directions of a layer's inputs, strongest first."""

    rows: Tensor
    """[directions, in], orthonormal, float32."""
    shares: Tensor
    """Of the inputs' variance that each explains, [directions], float64."""


def pissa(weight: Tensor, rank: int, scale: float, iterations: int | None = None) -> Start:
    """The principal part: scale B A = U_r S_r V_r^T of the weight (2404.02948).

    Args:
        iterations: of the randomised SVD, which draws from torch's global generator; None takes the exact one.
    """
    if iterations is not None:
        u, s, v = torch.svd_lowrank(weight.float(), q=rank, niter=iterations)
        return _halves(u, s, v.T, scale)
    return _largest(weight.float(), rank, scale)


def olora(weight: Tensor, rank: int) -> Start:
    """Orthonormal B, from the first columns of W = Q R: B = Q[:, :r], A = R[:r] (2406.01775)."""
    q, r = torch.linalg.qr(weight.float())
    signs = _signs(q[:, :rank], dim=0)
    return Start((r[:rank] * signs[:, None]).contiguous(), (q[:, :rank] * signs).contiguous())


def corda(weight: Tensor, rank: int, scale: float, inputs: Inputs) -> Start:
    """The part that answers these inputs most: scale B A = U_r S_r V_r^T C^-1, with U S V^T = W C (2406.05223).

    C is the inputs' covariance about 0, scaled to a mean variance of 1 so that A and B are of one size whatever the
    inputs' is, and damped; in float64, since C is inverted.
    """
    covariance = inputs.moment.double() / inputs.moment.diagonal().double().mean()
    covariance += _DAMPING * torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
    u, s, vh = torch.linalg.svd(weight.double() @ covariance, full_matrices=False)
    return _halves(u[:, :rank], s[:rank], torch.linalg.solve(covariance, vh[:rank].T).T, scale)


def loftq(weight: Tensor, held: Tensor, rank: int, scale: float) -> Start:
    """What quantisation lost, as far as rank r goes: scale B A = SVD_r(W - Q) (2310.08659, one alternation).

    More alternations would quantise W - scale B A anew, and the adapter would no longer fit the base's files.
    """
    return _largest(weight.float() - held.float(), rank, scale)


def principal_directions(inputs: Inputs, count: int) -> Directions:
    """Principal components of the inputs about their mean (2410.07170), from the exact covariance in float64."""
    mean = inputs.total.double() / inputs.tokens
    covariance = inputs.moment.double() / inputs.tokens - torch.outer(mean, mean)
    values, vectors = torch.linalg.eigh(covariance)
    rows = vectors.T.flip(0)[:count]
    rows = rows * _signs(rows, dim=1)[:, None]
    shares = values.flip(0).clamp(min=0)
    return Directions(rows.float().contiguous(), (shares / shares.sum())[:count].cpu())


def share_ranks(found: dict[str, Directions], budget: int) -> dict[str, int]:
    """Layer -> rank: the `budget` directions of all layers that explain most of their own layer's variance (EVA).

    Ties go to the earlier layer, so that equal inputs (q, k, v) are served alike everywhere.
    """
    ranked = sorted(
        (-share, at, number, name)
        for at, (name, directions) in enumerate(found.items())
        for number, share in enumerate(directions.shares.tolist())
    )
    ranks = dict.fromkeys(found, 0)
    for *_, name in ranked[:budget]:
        ranks[name] += 1
    return ranks


def weight_of(layer: nn.Module) -> Tensor:
    """The layer's weight as [out, in], in its float dtype; a quantised one as the layer computes with it."""
    weight: Tensor = layer.weight.data
    if hasattr(layer.weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight, layer.weight.quant_state)
    elif weight.dtype == torch.int8:
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        weight = weight.float() * (scales.float() / 127.0)[:, None]
    return weight.T if isinstance(layer, Conv1D) else weight


def is_quantized(layer: nn.Module) -> bool:
    """True for a layer that bitsandbytes holds in 4 or 8 bits."""
    return not layer.weight.is_floating_point()


def _largest(matrix: Tensor, rank: int, scale: float) -> Start:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return _halves(u[:, :rank], s[:rank], vh[:rank], scale)


def _halves(u: Tensor, s: Tensor, vh: Tensor, scale: float) -> Start:
    """Each singular value in equal parts to A and B: scale B A = u s vh."""
    root, signs = (s / scale).sqrt(), _signs(u, dim=0)
    return Start(((root * signs)[:, None] * vh).float().contiguous(), (u * (root * signs)).float().contiguous())


def _signs(vectors: Tensor, dim: int) -> Tensor:
    """+1 or -1 for each vector along `dim`, so that its largest entry becomes positive."""
    largest = vectors.abs().argmax(dim=dim, keepdim=True)
    return torch.where(vectors.gather(dim, largest).squeeze(dim) < 0, -1.0, 1.0).to(vectors.dtype)
