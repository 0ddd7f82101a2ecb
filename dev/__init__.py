"""For people who work on the pack: `python dev demo | test | serve` from the repository root."""
