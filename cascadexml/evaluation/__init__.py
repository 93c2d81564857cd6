"""What a ranking is worth: calibration, judgement, plots, pages of examples."""
