"""Ways to tell a Transformer where a token stands.

Shapes: B rows, T queries, S keys, C width, H heads, D width of a head.
"""

import torch
from torch import Tensor


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """(..., C) for positions (...): sine and cosine of wavelengths from 2 pi to 10,000 x 2 pi, halves side by side.

    Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762) interleave them: the same but for the order of channels.
    """
    half = torch.arange((width + 1) // 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * 10_000.0 ** (-2 * half / width)  # (..., C / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :width]


def rotary_angles(positions: Tensor, width: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine (..., D) by which rotate() turns the heads of tokens at `positions` (...).

    Su et al. 2021 (https://arxiv.org/abs/2104.09864), with channel i paired with channel i + D / 2 as in GPT-NeoX.

    Args:
        width: D, even.
        base: the longest wavelength is 2 pi times about this.
    """
    # Divided as Llama's own code does it: the other way differs by a rounding, which a long row shows.
    frequencies = 1.0 / base ** (torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    angles = positions[..., None].float() * frequencies  # (..., D / 2)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys (B, H, T, D) turned by angles of shape (T, D) or (B, 1, T, D)."""
    cosine, sine = (part.to(heads.dtype) for part in angles)
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat([-second, first], dim=-1) * sine


def alibi_slopes(n_head: int) -> Tensor:
    """(H,): how much each head's score falls for each position that a key is away (https://arxiv.org/abs/2108.12409).

    A geometric series; where H is no power of two, filled up with every other slope of the next one, as in the
    paper's code.
    """
    power = 1 << (n_head.bit_length() - 1)  # the largest power of two up to H
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return torch.tensor(slopes + between[: n_head - power])


def alibi_mask(slopes: Tensor, queries: Tensor, visible: Tensor) -> Tensor:
    """(B or 1, H, T, S) to add to scores: the slope times the distance, -inf where a key is not visible.

    Args:
        slopes: (H,).
        queries: (B or 1, T), positions; key s stands at position s.
        visible: bool, (B or 1, 1, T, S) or (T, S).
    """
    keys = torch.arange(visible.shape[-1], device=queries.device)
    distance = queries[:, None, :, None] - keys  # (B, 1, T, S)
    return (-slopes[:, None, None] * distance).masked_fill(~visible, -torch.inf)
