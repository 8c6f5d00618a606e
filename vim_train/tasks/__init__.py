"""Which data, model, loss and metrics belong together."""
