"""Streams that a process was started without, as by `>&-` or some daemons."""

import os
import sys


def open_closed_streams() -> None:
    """Put /dev/null in their place: else the next file that is opened gets the number that others print to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode))  # noqa: SIM115
