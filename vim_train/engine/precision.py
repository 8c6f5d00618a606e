"""Number formats of compute: fp32, tf32, bf16 and fp16 autocast, and fp16's loss scaler."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from vim_train.config.schema import Amp

DTYPES = {Amp.bf16: torch.bfloat16, Amp.fp16: torch.float16}


@dataclass
class Precision:
    """Autocast and loss scaling of one run; a scaler that is not enabled passes everything through."""

    amp: Amp
    device: torch.device
    scaler: torch.amp.GradScaler

    def autocast(self) -> AbstractContextManager[None]:
        if self.amp not in DTYPES:
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.amp])


def set_precision(amp: Amp, device: torch.device) -> Precision:
    """Set the process-wide matrix precision and make the run's Precision."""
    torch.backends.cuda.matmul.allow_tf32 = amp is Amp.tf32
    torch.backends.cudnn.allow_tf32 = amp is Amp.tf32
    return Precision(amp, device, torch.amp.GradScaler(device.type, enabled=amp is Amp.fp16))
