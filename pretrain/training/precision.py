"""Devices, and the number format of products on them."""

from typing import Literal

import torch

from pretrain.errors import UsageError

# Of the products that are not in fp8, which are all but those of linear layers in the training of fp8.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
FP8_CAPABILITY = (8, 9)  # of the first GPUs that multiply fp8: Ada; Hopper is 9.0


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


def refuse_precision(name: str, device: torch.device) -> None:
    """Refuse fp8 on what cannot multiply it.

    Raises:
        UsageError: it cannot.
    """
    if name != "fp8" or (device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY):
        return
    found = torch.cuda.get_device_name(device) if device.type == "cuda" else f"device={device.type}"
    raise UsageError(f"precision=fp8 needs a GPU of compute capability 8.9 or later, not {found}; try precision=bf16")


def chosen_precision(name: Literal["auto", "fp32", "bf16", "fp16", "fp8"], device: torch.device) -> str:
    """`name`, or for auto bf16 where the device multiplies it in hardware, else fp32."""
    if name != "auto":
        return name
    if device.type == "cpu":
        in_hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        in_hardware = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if in_hardware else "fp32"
