"""Images in: sources, their order as a function of (seed, epoch, position), transforms, mixing, streams of batches."""
