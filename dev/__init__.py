"""For people who work on the pack: `python dev demo | test | serve | bench | recipe` from the repository root."""
