"""How numbers are written for people."""

import math


def duration(seconds: float) -> str:
    """``0:07``, ``12:30``, ``3:05:00``, ``2 d 3 h``."""
    if not math.isfinite(seconds):
        return "-:--"
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


def memory(megabytes: float) -> str:
    """``812 MB``, ``1.4 GB``; megabytes of 2**20 bytes."""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"


def percent(share: float) -> str:
    """A share of 1 as whole per cents: ``34 %``."""
    return f"{100 * share:.0f} %"


def rate(per_second: float) -> str:
    """Three digits are enough to compare: ``0.42``, ``3.71``, ``45.2``, ``1,830``. ``-``: nothing is measured yet."""
    if per_second == 0:
        return "-"
    decimals = 0 if per_second >= 100 else 1 if per_second >= 10 else 2
    return f"{per_second:,.{decimals}f}"


def epoch(step: int, steps_per_epoch: int) -> str:
    """Epochs done after ``step`` steps: ``3``, or ``2.5`` inside one."""
    done = step / steps_per_epoch
    return f"{done:.0f}" if step % steps_per_epoch == 0 else f"{done:.2f}"


def number(value: object) -> str:
    """Any other value: a float with four significant digits, the rest as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def metric(name: str, value: float) -> str:
    """A metric's value as its name asks: losses with four decimals, per cents with two."""
    if name.endswith("loss"):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3e}"
    if name.endswith(("top1", "top5")):
        return f"{value:.2f}"
    return number(float(value))


def label(name: str) -> str:
    """``eval/top1`` is read ``top-1``, ``ema/top5`` ``ema top-5``, ``eval/miou`` ``miou``."""
    group, _, rest = name.rpartition("/")
    rest = {"top1": "top-1", "top5": "top-5"}.get(rest, rest)
    return f"ema {rest}" if group == "ema" else rest


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
