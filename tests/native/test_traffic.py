"""The kernels move no more bytes than their layout promises."""

from __future__ import annotations

from hostrun import TracedLibrary
from traffic import PROJECTIONS, traffic_of

LIMITS = {"forward": 34.0, "backward": 78.0}  # bytes of a token-channel, with the projections around the scan


def test_bytes_of_a_token_channel(traced_library: TracedLibrary) -> None:
    traffic = traffic_of(traced_library)
    for way, limit in LIMITS.items():
        kernels = sum(t.total for name, t in traffic.items() if name.endswith(way))
        assert kernels + PROJECTIONS[way] <= limit, traffic
    assert traffic["scan forward"].total <= 12 + 8  # u, delta, z and out; checkpoints
    # u, delta, z and dout of either direction, du, ddelta and dz; y in dz between the two; checkpoints; sums of blocks.
    assert traffic["scan backward"].total <= 16 + 10 + 4 + 8 + 10
