"""Devices, and the number format of products on them."""

from typing import Literal

import torch

from pretrain.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def chosen_device(name: Literal["auto", "cpu", "cuda", "mps"]) -> torch.device:
    """The device called `name`; auto is the fastest one here.

    Raises:
        UsageError: this machine has no such device.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if here[kind])
    if not here[name]:
        raise UsageError(f"device={name} is not on this machine; here are {', '.join(k for k in here if here[k])}")
    return torch.device(name)


def chosen_precision(name: Literal["auto", "fp32", "bf16"], device: torch.device) -> str:
    """`name`, or for auto bf16 where the device multiplies it in hardware, else fp32."""
    if name != "auto":
        return name
    if device.type == "cpu":
        in_hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        in_hardware = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if in_hardware else "fp32"
