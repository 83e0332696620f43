"""What a student takes from a teacher's distribution: the divergence of the two over answer tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.methods._loss import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.methods._values import Window


def divergence_share(student: Tensor, teacher: Tensor, labels: Tensor, window: Window, temperature: float) -> Tensor:
    """The micro-batch's share of the step's mean T^2 KL(teacher || student) per answer token, in nats; a scalar.

    KL is that of softmax(logits / T) (Hinton et al., arXiv 1503.02531); T^2 keeps the size of its gradient what it is
    at T = 1. It is summed over answer tokens and divided by those of the step, as the cross-entropy is, so that k
    micro-batches of b rows add up to one of kb. Two models of one vocabulary may round the height of their embeddings
    up differently: ids beyond the lower one belong to no token and are left out.

    Args:
        student: logits [rows, tokens - 1, vocabulary], float32, with a graph.
        teacher: logits of the same tokens, without one.
        labels: [rows, tokens], -100 where masked; the first column predicts nothing.
        window: of the step; without a count of items, the mean over this micro-batch stands for it.
        temperature: T.
    """
    from torch.nn.functional import kl_div, log_softmax

    answered = labels[:, 1:] != IGNORED
    width = min(student.shape[-1], teacher.shape[-1])
    student, teacher = (logits[answered][:, :width] / temperature for logits in (student, teacher))
    divergence = kl_div(log_softmax(student, -1), log_softmax(teacher, -1), reduction="sum", log_target=True)
    summed = divergence * temperature**2
    if window.items is None:
        return summed / answered.sum().clamp(min=1) / window.micro_batches
    return summed / window.items
