"""Options of a training run that fill a file of their own. `train/config.py` puts all of them together."""
