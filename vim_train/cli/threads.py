"""How compute threads wait for work, set before torch is imported."""

import os


def let_threads_sleep() -> None:
    """Have OpenMP's threads sleep at once instead of spinning; a policy that the environment names is kept.

    Spinning threads of two processes keep each other from the cores they wait for: two trainings on two cores ran ten
    times slower than they had to.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
