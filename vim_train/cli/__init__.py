"""Console commands: compose, validate, call. torch is imported only once there is something to compute."""
